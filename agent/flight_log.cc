// SPDX-License-Identifier: Apache-2.0
#include "agent/flight_log.h"

#include <cstdio>

#include "agent/log_text.h"

namespace granary::agent {

void FlightLog::add(const pool::FlightRecord& record) {
  const std::lock_guard lock(mutex_);
  failures_.push_front(record);
  if (failures_.size() > kFailures) failures_.pop_back();
}

std::vector<pool::FlightRecord> FlightLog::failures() const {
  const std::lock_guard lock(mutex_);
  return {failures_.begin(), failures_.end()};
}

std::string to_log_line(const pool::FlightRecord& record) {
  std::string steps;
  for (const pool::FlightStep& step : record.steps) {
    char after[32];
    std::snprintf(after, sizeof(after), "+%.1f",
                  std::chrono::duration<double, std::milli>(step.when - record.steps.front().when).count());
    steps += (steps.empty() ? "" : " ") + std::string(step.state) + after;
  }
  return "clone=" + record.clone_id + " pool=" + record.pool + " failed_in=" + record.failed_in + " failure=\"" +
         log_value(record.failure) + "\" steps=\"" + steps + "\"";
}

}  // namespace granary::agent
