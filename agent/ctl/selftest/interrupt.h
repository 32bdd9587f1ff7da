// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

#include "vmpool/base/fd.h"

namespace granary::ctl::selftest {

// SIGINT, SIGTERM and SIGHUP of this process, taken instead of ending it. Make it before any thread starts; then one
// thread uses it.
class Interrupt {
 public:
  static Result<Interrupt> create();

  // The signal that has come; 0: none.
  [[nodiscard]] int signal();
  [[nodiscard]] bool came() { return signal() != 0; }
  // Waits so long, or until one comes, or `fd` can be read; returns came().
  bool wait(std::chrono::milliseconds time, int fd = -1);
  // A second one since the first: no patience any more.
  [[nodiscard]] bool again();
  // EINTR once one has come.
  [[nodiscard]] Status check();

 private:
  explicit Interrupt(Fd signals) : signals_(std::move(signals)) {}
  void look();
  Fd signals_;
  int first_ = 0;
  int count_ = 0;
};

}  // namespace granary::ctl::selftest
