// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/flight_record.h"

#include <algorithm>

namespace granary::pool {

void FlightRecorder::note(const char* state, const std::string& detail, WallTime now) {
  const std::lock_guard lock(mutex_);
  add(state, detail, now);
}

void FlightRecorder::fail(const std::string& why, WallTime now) {
  const std::lock_guard lock(mutex_);
  if (failure_.empty()) {
    failure_ = why.empty() ? "unknown" : why.substr(0, kDetailBytes);
    failed_in_ = count_ == 0 ? "new" : steps_[(count_ - 1) % kSteps].state;
  }
  add("failed", why, now);
}

bool FlightRecorder::failed() const {
  const std::lock_guard lock(mutex_);
  return !failure_.empty();
}

FlightRecord FlightRecorder::read() const {
  const std::lock_guard lock(mutex_);
  FlightRecord record;
  record.failure = failure_;
  record.failed_in = failed_in_;
  record.dropped = count_ - std::min<uint64_t>(count_, kSteps);
  for (uint64_t n = record.dropped; n < count_; ++n) record.steps.push_back(steps_[n % kSteps]);
  return record;
}

void FlightRecorder::add(const char* state, const std::string& detail, WallTime now) {
  steps_[count_ % kSteps] = {.when = now, .state = state, .detail = detail.substr(0, kDetailBytes)};
  ++count_;
}

}  // namespace granary::pool
