// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "agent/sim/trace.h"

namespace granary::sim {

// How long a refill takes: `seconds` at least, and an exponential part beyond it; so many of a hundred hang until they
// are given up.
struct Refill {
  double seconds = 0.5;
  double spread_seconds = 0;  // mean of the exponential part
  uint32_t concurrency = 2;
  double hang_percent = 0;      // of refills that never complete
  double timeout_seconds = 10;  // after which one that hangs is given up and begun anew
};

struct Node {
  Refill refill;
  double tick_seconds = 1;  // how often the sizer looks
  uint32_t most = 64;       // idle clones that a pool may keep
  uint64_t clone_bytes = 16ULL << 20;
  uint64_t seed = 1;
};

// What the sizer sees when it looks.
struct Sight {
  double now;
  uint32_t target;
  uint32_t warm;
  uint32_t restoring;
  uint64_t hits;  // since the last look
  uint64_t misses;
  double oldest_refill_seconds;
};

// One policy under test.
struct Sizer {
  std::string name;
  uint32_t first = 0;                                 // the size at the start
  std::function<uint32_t(const Sight&)> look = {};    // each tick: the new size; none: it stays as it is
  std::function<void(double now)> asked = {};         // each acquire
  std::function<void(double seconds)> refilled = {};  // each clone that was made
};

struct Outcome {
  std::string name = {};
  uint64_t acquires = 0;
  uint64_t hits = 0;
  double wait_p50 = 0;  // seconds, of all acquires, hits included
  double wait_p99 = 0;
  double wait_p999 = 0;
  double wait_max = 0;
  double clone_seconds = 0;  // idle clones: warm, or on their way there
  uint64_t evictions = 0;
  uint64_t resizes = 0;
  uint64_t reversals = 0;  // resizes in another direction than the one before
  double seconds = 0;
  std::vector<std::pair<double, uint32_t>> sizes = {};  // when it became what

  [[nodiscard]] double hit_rate() const {
    return acquires > 0 ? static_cast<double>(hits) / static_cast<double>(acquires) : 1;
  }
  [[nodiscard]] uint64_t misses() const { return acquires - hits; }
  [[nodiscard]] double mean_idle() const { return seconds > 0 ? clone_seconds / seconds : 0; }
};

// Lets one pool live through a trace, as vmpool/pool/pool.h does: a warm clone is taken at once, else the acquire
// waits, first come first served; refills are begun while fewer clones are warm or coming than the size and those who
// wait; what is beyond the size is evicted, newest first. It starts filled.
Outcome simulate(const Trace& trace, const Node& node, const Sizer& sizer);

}  // namespace granary::sim
