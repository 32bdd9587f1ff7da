// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>
#include <time.h>

#include "vmpool/base/result.h"
#include "vmpool/kvm/vcpu.h"

namespace granary::kvm::probe {

// While it lives, the calling thread's run() of `vcpu` is interrupted once `timeout_ms` have passed: a timer signals
// the thread, and the handler sets immediate_exit, so that the signal cannot come too early. Restores the signal's
// action and mask. At most one in a process at a time; `vcpu` must outlive it.
class RunDeadline {
 public:
  static Result<RunDeadline> arm(const Vcpu& vcpu, int timeout_ms);
  RunDeadline(RunDeadline&& other) noexcept;
  RunDeadline& operator=(RunDeadline&&) = delete;
  RunDeadline(const RunDeadline&) = delete;
  RunDeadline& operator=(const RunDeadline&) = delete;
  ~RunDeadline();

  [[nodiscard]] static bool passed();

 private:
  RunDeadline() = default;
  bool armed_ = false;
  bool has_timer_ = false;
  timer_t timer_{};
  struct sigaction old_action_ {};
  sigset_t old_mask_{};
};

}  // namespace granary::kvm::probe
