// SPDX-License-Identifier: Apache-2.0
// Stands in for containerd-shim-granary-v2 in tests: tells the first client of its standard input what it was started
// with, and ends when that one goes.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <string>

int main(int argc, char** argv) {
  std::string report;
  for (int i = 0; i < argc; ++i) report += std::string(argv[i]) + " ";
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, nullptr, &blocked);
  bool any = false;
  for (int number = 1; number < NSIG; ++number) any = any || sigismember(&blocked, number) == 1;
  report += any ? "blocked " : "";
  report += environ[0] == nullptr ? "" : "environment ";
  report += getsid(0) == getpid() ? "own-session " : "";
  for (int fd = 3; fd < 64; ++fd) report += fcntl(fd, F_GETFD) >= 0 ? "fd" + std::to_string(fd) + " " : "";
  pollfd listener{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};  // it may be non-blocking
  poll(&listener, 1, -1);
  const int client = accept(STDIN_FILENO, nullptr, nullptr);
  if (client < 0 || write(client, report.data(), report.size()) < 0) return 1;
  char byte = 0;
  return read(client, &byte, 1) == 1 ? byte : 0;
}
