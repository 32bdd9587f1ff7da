// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/spawn.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

#include "vmpool/guest/init/exec_plan.h"

namespace granary::guest {
namespace {

enum class Step : int { kStreams, kTerminal, kRlimit, kGroups, kUser, kCwd, kExec, kInterpreter };

constexpr const char* kStepNames[] = {"set up the standard streams",
                                      "take the terminal",
                                      "set rlimit",
                                      "set groups",
                                      "set user",
                                      "change to working directory",
                                      "run",
                                      "run"};

// What the child writes to the outcome pipe when it cannot become the command.
struct ChildError {
  Step step;
  int number;
};

// The child's ends, and where it says what went wrong.
struct ChildSide {
  Fd in;
  Fd out;
  Fd err;
  Fd outcome;
};

constexpr int kOutcomeFd = 3;
// Many programs still take select(2) to be enough; init's own limit is far higher.
constexpr rlim_t kSoftFiles = 1024;

struct Pipe {
  Fd read;
  Fd write;
};

Result<Pipe> make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return Error::last_os_error("pipe for a new process");
  return Pipe{Fd(fds[0]), Fd(fds[1])};
}

Status open_terminal(const v1::Exec& request, Streams& ours, ChildSide& child) {
  ours.terminal = Fd(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!ours.terminal.valid()) return Error::last_os_error("open a pseudo-terminal");
  if (::unlockpt(ours.terminal.get()) != 0) return Error::last_os_error("unlock a pseudo-terminal");
  // By descriptor: the name in /dev/pts may be hidden by a workload's mounts.
  child.in = Fd(::ioctl(ours.terminal.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!child.in.valid()) return Error::last_os_error("open a pseudo-terminal's other side");
  set_window_size(ours.terminal.get(), request.window_size());
  child.out = GRANARY_TRY(child.in.duplicate());
  child.err = GRANARY_TRY(child.in.duplicate());
  // Two descriptors for one terminal, because an epoll set takes a descriptor once.
  ours.stdin_pipe = GRANARY_TRY(ours.terminal.duplicate());
  return set_nonblocking(ours.terminal.get());
}

Status open_pipes(const v1::Exec& request, Streams& ours, ChildSide& child) {
  if (request.has_stdin()) {
    Pipe in = GRANARY_TRY(make_pipe());
    child.in = std::move(in.read);
    ours.stdin_pipe = std::move(in.write);
    GRANARY_TRY(set_nonblocking(ours.stdin_pipe.get()));
  } else {
    child.in = GRANARY_TRY(open_file("/dev/null", O_RDONLY));
  }
  Pipe out = GRANARY_TRY(make_pipe());
  Pipe err = GRANARY_TRY(make_pipe());
  child.out = std::move(out.write);
  child.err = std::move(err.write);
  ours.stdout_pipe = std::move(out.read);
  ours.stderr_pipe = std::move(err.read);
  GRANARY_TRY(set_nonblocking(ours.stdout_pipe.get()));
  return set_nonblocking(ours.stderr_pipe.get());
}

// From here to run_child: between fork and execve, so system calls only.

[[noreturn]] void give_up(Step step) {
  const ChildError error{step, errno};
  [[maybe_unused]] const ssize_t n = ::write(kOutcomeFd, &error, sizeof(error));
  ::_exit(127);
}

void default_signals() {
  // The system call, because glibc refuses its two own signals (32 and 33), which posix_spawn leaves ignored in its
  // children.
  constexpr unsigned long kWords[4] = {};  // struct kernel_sigaction: SIG_DFL, no flags, no restorer, empty mask
  for (int number = 1; number < NSIG; ++number) ::syscall(SYS_rt_sigaction, number, kWords, nullptr, sizeof(uint64_t));
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// The four descriptors of the child are all at 4 or above when this is called.
void take_streams(const ChildSide& side) {
  const int from[] = {side.in.get(), side.out.get(), side.err.get(), side.outcome.get()};
  for (int to = 0; to <= kOutcomeFd; ++to) {
    if (::dup2(from[to], to) < 0) ::_exit(127);
  }
  ::fcntl(kOutcomeFd, F_SETFD, FD_CLOEXEC);
  // At once, not at execve: until then this process would hold the other commands' pipes open.
  ::syscall(SYS_close_range, kOutcomeFd + 1, ~0U, 0);
}

void apply_limits(const ExecPlan& plan) {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > kSoftFiles) {
    files.rlim_cur = kSoftFiles;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  for (const auto& [resource, limit] : plan.rlimits) {
    if (::setrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) give_up(Step::kRlimit);
  }
}

void become_user(const ExecPlan& plan, bool tty) {
  // Only root may do these, and in a guest init is root.
  if (::geteuid() == 0) {
    if (tty && ::fchown(STDIN_FILENO, plan.uid, static_cast<gid_t>(-1)) != 0) give_up(Step::kTerminal);
    if (::setgroups(plan.groups.size(), plan.groups.data()) != 0) give_up(Step::kGroups);
  }
  if (::setresgid(plan.gid, plan.gid, plan.gid) != 0) give_up(Step::kGroups);
  if (::setresuid(plan.uid, plan.uid, plan.uid) != 0) give_up(Step::kUser);
}

// As a shell searches: a candidate that may not be run is remembered while a later one may do.
[[noreturn]] void become_command(const ExecPlan& plan) {
  int worst = ENOENT;
  for (const std::string& path : plan.candidates) {
    ::execve(path.c_str(), plan.argv.data(), plan.envp.data());
    const bool there = errno == ENOENT && ::access(path.c_str(), F_OK) == 0;
    if (there) {
      errno = ENOENT;
      give_up(Step::kInterpreter);
    }
    const bool go_on = errno == ENOENT || errno == ENOTDIR || errno == EACCES;
    if (!go_on) give_up(Step::kExec);
    if (errno == EACCES) worst = EACCES;
  }
  errno = worst;
  give_up(Step::kExec);
}

[[noreturn]] void run_child(const ExecPlan& plan, const ChildSide& side, bool tty) {
  ::setsid();
  take_streams(side);
  if (tty && ::ioctl(STDIN_FILENO, TIOCSCTTY, 0) != 0) give_up(Step::kTerminal);
  default_signals();
  apply_limits(plan);
  become_user(plan, tty);
  if (::chdir(plan.cwd.c_str()) != 0) give_up(Step::kCwd);
  become_command(plan);
}

// Descriptors below 4 would be overwritten while take_streams() puts the others in place.
Status move_up(Fd& fd) {
  if (fd.get() > kOutcomeFd) return ok();
  Fd moved(::fcntl(fd.get(), F_DUPFD_CLOEXEC, kOutcomeFd + 1));
  if (!moved.valid()) return Error::last_os_error("duplicate a file descriptor");
  fd = std::move(moved);
  return ok();
}

}  // namespace

void set_window_size(int terminal, const v1::WindowSize& size) {
  winsize window{};
  window.ws_row = static_cast<unsigned short>(size.rows());
  window.ws_col = static_cast<unsigned short>(size.columns());
  ::ioctl(terminal, TIOCSWINSZ, &window);
}

Result<Spawned> spawn(const v1::Exec& request) {
  const ExecPlan plan = GRANARY_TRY(make_exec_plan(request));
  Spawned spawned;
  ChildSide side;
  GRANARY_TRY(request.tty() ? open_terminal(request, spawned.streams, side)
                            : open_pipes(request, spawned.streams, side));
  Pipe outcome = GRANARY_TRY(make_pipe());
  side.outcome = std::move(outcome.write);
  spawned.outcome = std::move(outcome.read);
  for (Fd* fd : {&side.in, &side.out, &side.err, &side.outcome}) GRANARY_TRY(move_up(*fd));
  spawned.pid = ::fork();
  if (spawned.pid < 0) return Error::last_os_error("fork");
  if (spawned.pid == 0) run_child(plan, side, request.tty());
  return spawned;
}

Status spawn_result(int outcome, const v1::Exec& request) {
  ChildError error{};
  const ssize_t n = ::read(outcome, &error, sizeof(error));
  if (n == 0) return ok();
  if (n != sizeof(error)) return Error::last_os_error("read a new process's outcome");
  const std::string& command = request.argv(0);
  const std::string step = kStepNames[static_cast<int>(error.step)];
  switch (error.step) {
    case Step::kExec:
      return Error::from_errno(error.number, step + " " + command);
    case Step::kInterpreter:
      return Error::from_errno(ENOEXEC, step + " " + command + ": its interpreter or loader is missing");
    case Step::kCwd:
      return Error(Errc::kInvalidArgument,
                   "exec: " + step + " " + request.cwd() + ": " + std::generic_category().message(error.number));
    default:
      return Error(Errc::kInvalidArgument, "exec: " + step + ": " + std::generic_category().message(error.number));
  }
}

}  // namespace granary::guest
