// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace granary::adaptive {

// Which parts of an hour, or of a day, are busy again and again: full minutes when scheduled jobs start, a nightly
// build. Wall-clock time, UTC.
class Profile {
 public:
  Profile(double slot_seconds, uint32_t slots) : slot_seconds_(slot_seconds), often_(slots) {}

  // An acquire. A slot ends when another one is seen; one that was not lived through whole, because the agent started
  // or the clock jumped, teaches nothing. `usual_rate`: acquires per second, of hours.
  void asked() { ++asked_; }
  void look(double wall, double usual_rate);
  // Was a slot from `wall` until so many seconds later busy, mostly, the last times?
  [[nodiscard]] bool is_busy_within(double wall, double seconds) const;

  // For each slot how often it was busy, 0 to 1, the last times counting most.
  [[nodiscard]] const std::vector<float>& often() const { return often_; }
  // As often() gave it; of another size it is ignored.
  void restore(const std::vector<float>& often);

 private:
  [[nodiscard]] int64_t slot_number(double wall) const;

  double slot_seconds_;
  std::vector<float> often_;
  int64_t slot_ = -1;  // number of the current one since 1970
  bool whole_ = false;
  uint32_t asked_ = 0;
};

}  // namespace granary::adaptive
