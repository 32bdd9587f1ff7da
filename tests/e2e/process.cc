// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "vmpool/base/fd.h"

namespace granary::e2e {
namespace {

pid_t spawn(const std::vector<std::string>& argv, int output) {
  std::vector<char*> arguments;
  arguments.reserve(argv.size() + 1);
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  ::execvp(arguments[0], arguments.data());
  ::_exit(127);
}

int exit_code(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

}  // namespace

Process::Process(std::vector<std::string> argv, std::string log_path) : log_path_(std::move(log_path)) {
  const Result<Fd> log = open_file(log_path_, O_WRONLY | O_CREAT | O_APPEND);
  if (log) pid_ = spawn(argv, log->get());
}

Process::~Process() { terminate(); }

void Process::kill_now() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

int Process::terminate(std::chrono::seconds limit) {
  if (pid_ <= 0) return -1;
  ::kill(pid_, SIGTERM);
  int status = 0;
  const bool ended = wait_until([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; }, limit);
  if (!ended) {
    kill_now();
    return -1;
  }
  pid_ = -1;
  return exit_code(status);
}

std::string Process::log() const {
  Result<std::string> text = read_file(log_path_, 64 << 20);
  return text ? *std::move(text) : text.error().message();
}

int run_command(const std::vector<std::string>& argv, std::string* output) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return -1;
  const Fd reader(ends[0]);
  Fd writer(ends[1]);
  const pid_t pid = spawn(argv, writer.get());
  writer.reset();
  std::array<char, 4096> buffer;
  for (ssize_t n = 0; (n = ::read(reader.get(), buffer.data(), buffer.size())) > 0;) {
    if (output != nullptr) output->append(buffer.data(), static_cast<size_t>(n));
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return exit_code(status);
}

bool wait_until(const std::function<bool()>& condition, std::chrono::seconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    ::poll(nullptr, 0, 20);
  }
  return true;
}

}  // namespace granary::e2e
