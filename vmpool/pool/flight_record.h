// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace granary::pool {

using WallTime = std::chrono::system_clock::time_point;

// A state that a clone came into. `state` is a literal; `detail` is for people and may quote a guest.
struct FlightStep {
  WallTime when;
  const char* state = "";
  std::string detail;
};

// The newest steps of a clone's life, the oldest first.
struct FlightRecord {
  std::string clone_id;
  std::string pool;
  std::string failure;         // why it failed; empty: it did not
  const char* failed_in = "";  // the state in which it did
  uint64_t dropped = 0;        // steps older than those kept
  std::vector<FlightStep> steps;
};

// A clone's flight recorder: of fixed size, so that it can always be on. Thread-safe; brief.
class FlightRecorder {
 public:
  static constexpr size_t kSteps = 64;
  static constexpr size_t kDetailBytes = 200;

  void note(const char* state, const std::string& detail = "", WallTime now = std::chrono::system_clock::now());
  // The first failure counts: later ones follow from it.
  void fail(const std::string& why, WallTime now = std::chrono::system_clock::now());
  [[nodiscard]] bool failed() const;
  // Clone and pool are the caller's to fill in.
  [[nodiscard]] FlightRecord read() const;

 private:
  void add(const char* state, const std::string& detail, WallTime now);

  mutable std::mutex mutex_;
  std::array<FlightStep, kSteps> steps_;
  uint64_t count_ = 0;  // ever noted; step n is in steps_[n % kSteps]
  std::string failure_;
  const char* failed_in_ = "";
};

}  // namespace granary::pool
