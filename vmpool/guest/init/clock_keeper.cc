// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/clock_keeper.h"

#include "vmpool/base/log.h"

namespace granary::guest {

void ClockKeeper::start() {
  if (timer_ == 0) look();
}

void ClockKeeper::look() {
  timer_ = loop_.call_at(EventLoop::Clock::now() + interval_, [this] { look(); });
  const Status corrected = correct();
  if (!corrected && !failing_) log_line(LogLevel::kError, "clock not kept: %s", corrected.error().message().c_str());
  failing_ = !corrected;
}

Status ClockKeeper::correct() {
  const int64_t host_ns = GRANARY_TRY(system_.host_realtime_ns());
  const std::chrono::nanoseconds ahead(host_ns - system_.realtime_ns());
  if (std::chrono::abs(ahead) <= kTolerance) return ok();
  return system_.set_realtime(host_ns);
}

}  // namespace granary::guest
