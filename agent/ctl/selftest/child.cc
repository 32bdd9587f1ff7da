// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/child.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

namespace granary::ctl::selftest {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
constexpr milliseconds kLook{20};
constexpr milliseconds kEndLimit{5000};

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> all;
  for (std::string& word : words) all.push_back(word.data());
  all.push_back(nullptr);
  return all;
}

std::vector<std::string> merged_environment(const std::vector<std::string>& more) {
  std::vector<std::string> all = more;
  for (char** entry = environ; *entry != nullptr; ++entry) all.emplace_back(*entry);
  return all;
}

// In the child of a process that may have threads: system calls alone. The errno of execve(2) goes to `report`.
[[noreturn]] void become(char* const* argv, char* const* environment, int out, int err, int report, pid_t parent) {
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(127);
  if (out >= 0) ::dup2(out, STDOUT_FILENO);
  if (err >= 0) ::dup2(err, STDERR_FILENO);
  ::execve(argv[0], argv, environment);
  const int failed = errno;
  [[maybe_unused]] const ssize_t told = ::write(report, &failed, sizeof(failed));
  ::_exit(127);
}

Result<Fd> log_file(const std::string& path) {
  if (path.empty()) return Fd();
  return open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> all;
  const std::string id = std::to_string(pid);
  std::ifstream children("/proc/" + id + "/task/" + id + "/children");
  for (pid_t child = 0; children >> child;) all.push_back(child);
  return all;
}

// /proc lists the children of each of our threads apart.
std::vector<pid_t> own_children() {
  std::vector<pid_t> all;
  std::error_code code;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", code)) {
    std::ifstream children(thread.path() / "children");
    for (pid_t child = 0; children >> child;) all.push_back(child);
  }
  return all;
}

std::vector<pid_t> descendants() {
  std::vector<pid_t> all = own_children();
  for (size_t at = 0; at < all.size(); ++at) {
    for (const pid_t child : children_of(all[at])) all.push_back(child);
  }
  return all;
}

void reap_all() {
  while (::waitpid(-1, nullptr, WNOHANG) > 0) {
  }
}

std::string name_of(pid_t pid) {
  std::ifstream comm("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  std::getline(comm, name);
  return "process " + std::to_string(pid) + " " + name;
}

}  // namespace

Result<Child> Child::start(const std::vector<std::string>& argv, const std::vector<std::string>& environment,
                           const ChildFiles& files) {
  std::vector<std::string> words = argv;
  std::vector<std::string> settings = merged_environment(environment);
  const std::vector<char*> word_pointers = pointers(words);
  const std::vector<char*> setting_pointers = pointers(settings);
  const Fd err = GRANARY_TRY(log_file(files.errors));
  const Fd out = GRANARY_TRY(log_file(files.output));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Error::last_os_error("make a pipe");
  const Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return Error::last_os_error("fork " + argv[0]);
  if (pid == 0) {
    become(word_pointers.data(), setting_pointers.data(), out.valid() ? out.get() : err.get(), err.get(),
           write_end.get(), parent);
  }
  write_end = Fd();
  int failed = 0;
  if (::read(read_end.get(), &failed, sizeof(failed)) == sizeof(failed)) {
    ::waitpid(pid, nullptr, 0);
    return Error::from_errno(failed, "start " + argv[0]);
  }
  return Child(pid, Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))));
}

Child::~Child() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  reap();
}

int Child::reap() {
  int status = 0;
  if (pid_ > 0 && ::waitpid(std::exchange(pid_, -1), &status, 0) > 0) {
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return status_;
}

bool Child::running() {
  siginfo_t ended{};
  return pid_ > 0 && ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         ended.si_pid == 0;
}

std::optional<int> Child::wait(Interrupt& interrupt) {
  while (running()) {
    if (interrupt.wait(std::chrono::seconds(1), process_.get())) return std::nullopt;
  }
  return reap();
}

int Child::end(milliseconds patience, Interrupt& interrupt) {
  if (pid_ > 0) ::kill(pid_, SIGTERM);
  const auto limit = steady_clock::now() + patience;
  while (running() && steady_clock::now() < limit && !interrupt.again()) {
    pollfd fd{.fd = process_.get(), .events = POLLIN, .revents = 0};
    ::poll(&fd, 1, static_cast<int>(kLook.count()));
  }
  if (pid_ > 0) ::kill(pid_, SIGKILL);
  return reap();
}

Status adopt_orphans() {
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
    return Error::last_os_error("become the parent of orphans (PR_SET_CHILD_SUBREAPER)");
  return ok();
}

namespace {

// True: none is left.
bool wait_for_none(milliseconds patience, Interrupt& interrupt) {
  const auto limit = steady_clock::now() + patience;
  for (;;) {
    reap_all();
    if (descendants().empty()) return true;
    if (steady_clock::now() >= limit || interrupt.again()) return false;
    ::poll(nullptr, 0, static_cast<int>(kLook.count()));
  }
}

}  // namespace

std::vector<std::string> end_descendants(milliseconds patience, Interrupt& interrupt) {
  std::vector<std::string> left;
  if (wait_for_none(patience, interrupt)) return left;
  for (const pid_t pid : descendants()) left.push_back(name_of(pid));
  // Ours alone: an agent among them ends what is below it. After that a killed parent's children become ours.
  for (const pid_t pid : own_children()) ::kill(pid, SIGTERM);
  if (wait_for_none(kEndLimit, interrupt)) return left;
  const auto killed_by = steady_clock::now() + kEndLimit;
  for (std::vector<pid_t> alive = descendants(); !alive.empty() && steady_clock::now() < killed_by;
       alive = descendants()) {
    for (const pid_t pid : alive) ::kill(pid, SIGKILL);
    ::poll(nullptr, 0, static_cast<int>(kLook.count()));
    reap_all();
  }
  return left;
}

}  // namespace granary::ctl::selftest
