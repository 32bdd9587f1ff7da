// SPDX-License-Identifier: Apache-2.0
#include "vmpool/kvm/run_deadline.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <utility>

namespace granary::kvm::probe {
namespace {

std::atomic<const Vcpu*> g_vcpu = nullptr;
std::atomic<bool> g_passed = false;
static_assert(std::atomic<const Vcpu*>::is_always_lock_free);

int deadline_signal() { return SIGRTMIN + 7; }

void on_deadline(int) {
  g_passed.store(true);
  if (const Vcpu* vcpu = g_vcpu.load()) vcpu->request_immediate_exit(true);
}

}  // namespace

Result<RunDeadline> RunDeadline::arm(const Vcpu& vcpu, int timeout_ms) {
  RunDeadline deadline;
  g_passed = false;
  g_vcpu = &vcpu;
  deadline.armed_ = true;
  struct sigaction action {};
  action.sa_handler = on_deadline;
  sigset_t own;
  sigemptyset(&own);
  sigaddset(&own, deadline_signal());
  if (::sigaction(deadline_signal(), &action, &deadline.old_action_) != 0) return Error::last_os_error("sigaction");
  if (const int error = ::pthread_sigmask(SIG_UNBLOCK, &own, &deadline.old_mask_)) {
    return Error::from_errno(error, "pthread_sigmask");
  }
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = deadline_signal();
  event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
  if (::timer_create(CLOCK_MONOTONIC, &event, &deadline.timer_) != 0) return Error::last_os_error("timer_create");
  deadline.has_timer_ = true;
  itimerspec when{};
  when.it_value.tv_sec = timeout_ms / 1000;
  when.it_value.tv_nsec = (timeout_ms % 1000) * 1'000'000L;
  if (::timer_settime(deadline.timer_, 0, &when, nullptr) != 0) return Error::last_os_error("timer_settime");
  return deadline;
}

RunDeadline::RunDeadline(RunDeadline&& other) noexcept
    : armed_(std::exchange(other.armed_, false)),
      has_timer_(other.has_timer_),
      timer_(other.timer_),
      old_action_(other.old_action_),
      old_mask_(other.old_mask_) {}

RunDeadline::~RunDeadline() {
  if (!armed_) return;
  if (has_timer_) ::timer_delete(timer_);
  g_vcpu = nullptr;
  ::sigaction(deadline_signal(), &old_action_, nullptr);
  ::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

bool RunDeadline::passed() { return g_passed; }

}  // namespace granary::kvm::probe
