// SPDX-License-Identifier: Apache-2.0
// Stands in for granary-vmm in the spawner's tests: tells over the control socket what it was born with, then does as
// it is told: "exit N" sets the end state kShutdown and exits with N; the end of the socket ends it as well.
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>

#include "vmpool/base/message_socket.h"
#include "vmpool/base/status_page.h"
#include "vmpool/base/vmm_fds.h"

namespace {

std::string open_descriptors() {
  std::string text;
  for (int fd = 0; fd < 256; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) text += std::to_string(fd) + ",";
  }
  return text;
}

std::string report(int argc, char** argv) {
  rlimit core{};
  ::getrlimit(RLIMIT_CORE, &core);
  sigset_t blocked;
  ::sigprocmask(SIG_SETMASK, nullptr, &blocked);
  struct stat kvm {};
  ::fstat(granary::vmm_fds::kKvm, &kvm);
  return "fds=" + open_descriptors() + " session=" + (::getsid(0) == ::getpid() ? "own" : "shared") +
         " core=" + std::to_string(core.rlim_cur) +
         " blocked=" + (::sigismember(&blocked, SIGTERM) != 0 ? "yes" : "no") + " argc=" + std::to_string(argc) +
         " name=" + argv[0] + " environment=" + (*environ == nullptr ? "empty" : *environ) +
         " kvm=" + (S_ISCHR(kvm.st_mode) ? "device" : "other");
}

}  // namespace

int main(int argc, char** argv) {
  using namespace granary;
  const std::string text = report(argc, argv);
  if (!send_message(vmm_fds::kControlSocket, std::as_bytes(std::span(text)))) return 1;
  const Result<RawMessage> order = receive_message(vmm_fds::kControlSocket);
  if (!order) return 2;
  const Result<StatusFile> status = StatusFile::map(vmm_fds::kStatusPage, true);
  if (!status) return 3;
  status->set_end(EndState::kShutdown, 0, "told to");
  const std::string words(reinterpret_cast<const char*>(order->bytes.data()), order->bytes.size());
  return std::atoi(words.substr(words.find(' ') + 1).c_str());
}
