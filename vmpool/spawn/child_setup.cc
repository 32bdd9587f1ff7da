// SPDX-License-Identifier: Apache-2.0
#include "vmpool/spawn/child_setup.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sanitizer/asan_interface.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <vector>

#include "vmpool/base/fsd_fds.h"
#include "vmpool/base/vmm_fds.h"

namespace granary::spawn {
namespace {

constexpr size_t kChildStackBytes = 64 * 1024;
constexpr int kFirstInheritedFd = vmm_fds::kControlSocket;
constexpr int kFirstFreeFd = vmm_fds::kKvm + 1;
static_assert(kFirstInheritedFd == fsd_fds::kFuse && kFirstFreeFd == fsd_fds::kOwnFiles + 1);
constexpr long kFailed = -1;

// Lies in the parent: the child shares its memory until exec, so a failed step needs no pipe to be told.
struct Birth {
  const ChildPlan* plan;
  char* const* arguments;
  FailedStep failed;
};

// Notes a failed step; true if it worked.
bool step(Birth& birth, const char* name, long result) {
  if (result >= 0) return true;
  birth.failed = {.step = name, .error = errno, .remedy = "see the kernel log"};
  return false;
}

bool reset_signals(Birth& birth) {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  // SIGKILL, SIGSTOP and the two that the C library keeps for itself refuse with EINVAL, which changes nothing.
  for (int number = 1; number < NSIG; ++number) ::sigaction(number, &action, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  return step(birth, "sigprocmask", ::sigprocmask(SIG_SETMASK, &none, nullptr));
}

// Every source moves above the targets first: one of them may lie on another one's target.
bool place_descriptors(Birth& birth, int& executable) {
  const ChildPlan& plan = *birth.plan;
  struct Move {
    int from;
    int to;
  };
  std::array<Move, 5> moves = {{{plan.null, STDIN_FILENO}}};
  for (size_t i = 0; i < plan.inherited.size(); ++i) {
    moves[i + 1] = {plan.inherited[i], kFirstInheritedFd + static_cast<int>(i)};
  }
  for (Move& move : moves) {
    const bool is_own = move.from == kOwnFiles;
    // A mount of its own: through the host's, ".." would lead out of the jail.
    if (is_own) move.from = ::open_tree(AT_FDCWD, "/proc/self/fd", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (is_own && !step(birth, "clone the mount of /proc/self/fd", move.from)) return false;
    move.from = ::fcntl(move.from, F_DUPFD_CLOEXEC, kFirstFreeFd);
    if (!step(birth, "duplicate a descriptor", move.from)) return false;
  }
  executable = ::fcntl(plan.executable, F_DUPFD_CLOEXEC, kFirstFreeFd);
  if (!step(birth, "duplicate the executable", executable)) return false;
  for (const Move& move : moves) {
    if (!step(birth, "place a descriptor", ::dup2(move.from, move.to))) return false;
  }
  // Not closed at once: the executable must stay open until exec has read it.
  return step(birth, "close_range", ::syscall(SYS_close_range, kFirstFreeFd, ~0U, CLOSE_RANGE_CLOEXEC));
}

int child_main(void* argument) {
  Birth& birth = *static_cast<Birth*>(argument);
  int executable = -1;
  char* const environment[] = {nullptr};
  if (!reset_signals(birth) || !step(birth, "setsid", ::setsid()) || !place_descriptors(birth, executable) ||
      !enter_jail(birth.plan->jail, birth.failed)) {
    return 127;
  }
  step(birth, "execute the program",
       ::syscall(SYS_execveat, executable, "", birth.arguments, environment, AT_EMPTY_PATH));
  birth.failed.remedy = "it must be a static program that everybody may execute";
  return 127;
}

// clone3(2) with a stack of its own for the child, which runs child_main and never returns here. The C library has no
// wrapper that takes CLONE_INTO_CGROUP.
long clone_with_stack(clone_args& args, Birth& birth) {
  long result = kFailed;
  register void* argument asm("r8") = &birth;
  register int (*entry)(void*) asm("r9") = child_main;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %%r8, %%rdi\n\t"
      "call *%%r9\n\t"
      "mov %%eax, %%edi\n\t"
      "mov %[exit], %%eax\n\t"
      "syscall\n\t"
      "ud2\n"
      "1:"
      : "=a"(result), "+r"(argument), "+r"(entry)
      : "0"(static_cast<long>(SYS_clone3)), "D"(&args), "S"(sizeof(args)), [exit] "i"(SYS_exit)
      : "rcx", "r11", "memory", "cc");
  return result;
}

// A signal handler of this process must not run in the child while it shares this memory.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, &before_);
  }
  ~AllSignalsBlocked() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

Result<Child> start_child(const ChildPlan& plan) {
  static std::array<std::byte, kChildStackBytes> stack alignas(16);
  char name[48];
  std::snprintf(name, sizeof(name), "%s vm=%llu", plan.name, static_cast<unsigned long long>(plan.vm.value));
  char* const arguments[] = {name, nullptr};
  Birth birth{.plan = &plan, .arguments = arguments, .failed = {}};

  int pidfd = -1;
  clone_args args{};
  args.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_NEWPID | (plan.cgroup >= 0 ? CLONE_INTO_CGROUP : 0);
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  args.stack = reinterpret_cast<uint64_t>(stack.data());
  args.stack_size = stack.size();
  args.cgroup = plan.cgroup >= 0 ? static_cast<uint64_t>(plan.cgroup) : 0;
  // AddressSanitizer still marks what an earlier child left on this stack when it exec'd. Nothing in other builds.
  ASAN_UNPOISON_MEMORY_REGION(stack.data(), stack.size());
  long pid = kFailed;
  {
    const AllSignalsBlocked blocked;
    pid = clone_with_stack(args, birth);
  }
  if (pid < 0) {
    return Error::from_errno(
        static_cast<int>(-pid),
        "start " + std::string(plan.name) + (plan.cgroup >= 0 ? " in its cgroup and" : " in") + " a new pid namespace");
  }
  Child child{static_cast<pid_t>(pid), Fd(pidfd)};
  if (birth.failed.step == nullptr) return child;
  siginfo_t unused{};
  while (::waitid(P_PID, static_cast<id_t>(pid), &unused, WEXITED) != 0 && errno == EINTR) {
  }
  return Error::from_errno(birth.failed.error, "start " + std::string(plan.name) + ": " + birth.failed.step + " (" +
                                                   birth.failed.remedy + ")");
}

}  // namespace granary::spawn
