// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>

namespace granary::adaptive {

// The refills that would be outstanding if every acquire had ordered one, whatever the pool's size was: `concurrency`
// restores at a time, first come first served.
//
// A pool that keeps n clones and orders a new one for each that goes has n less what is outstanding. So an acquire that
// finds d outstanding is a hit in every pool of more than d clones and a miss in every other: one number answers for
// all sizes at once, also for those that were not tried. Seconds are of any clock; bounded by kMost.
class RefillQueue {
 public:
  static constexpr uint32_t kMost = 4096;

  // An acquire: how many refills are outstanding without its own.
  uint32_t ask(double now, double refill_seconds, uint32_t concurrency);

 private:
  std::deque<double> done_;  // when each is done, in order
};

}  // namespace granary::adaptive
