// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "vmpool/pool/flight_record.h"

namespace granary::agent {

// The flight records of the newest clones that failed or were lost, whatever became of their pools. Thread-safe.
class FlightLog {
 public:
  static constexpr size_t kFailures = 32;

  void add(const pool::FlightRecord& record);
  // The newest first.
  [[nodiscard]] std::vector<pool::FlightRecord> failures() const;

 private:
  mutable std::mutex mutex_;
  std::deque<pool::FlightRecord> failures_;
};

// For the log: `clone=… pool=… failed_in=… failure="…" steps="restoring+0.0 probing+3.1 …"`, milliseconds since the
// first step that is kept. On one line, whatever the guest said.
std::string to_log_line(const pool::FlightRecord& record);

}  // namespace granary::agent
