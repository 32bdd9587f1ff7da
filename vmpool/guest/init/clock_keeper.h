// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

#include "vmpool/base/event_loop.h"
#include "vmpool/guest/init/system.h"

namespace granary::guest {

// Keeps CLOCK_REALTIME with the host's for as long as the clone lives, whoever else comes and goes: the VMM itself
// tells the time. A difference beyond kTolerance is stepped away; below it the clock is left alone. Loop thread only.
class ClockKeeper {
 public:
  static constexpr std::chrono::milliseconds kTolerance{10};
  // A host's clock that is slewed by 500 ppm, which is the most, gets away by 2.5 ms meanwhile.
  static constexpr std::chrono::seconds kInterval{5};

  ClockKeeper(EventLoop& loop, System& system, std::chrono::nanoseconds interval = kInterval)
      : loop_(loop), system_(system), interval_(interval) {}
  ~ClockKeeper() { loop_.remove(timer_); }
  ClockKeeper(const ClockKeeper&) = delete;
  ClockKeeper& operator=(const ClockKeeper&) = delete;

  // Looks now and at each interval from now on; does nothing if it does so already.
  void start();

 private:
  void look();
  Status correct();

  EventLoop& loop_;
  System& system_;
  std::chrono::nanoseconds interval_;
  EventLoop::Token timer_ = 0;
  bool failing_ = false;
};

}  // namespace granary::guest
