// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "agent/sim/trace.h"

namespace granary::sim {

// What a generator makes. The same values give the same trace, on any machine.
struct Pattern {
  std::string kind = "steady";
  double rate = 1;  // acquires per second, the mean
  double hours = 24;
  uint64_t seed = 1;
};

// steady       independent acquires (Poisson)
// diurnal      Poisson, the rate rises from a twentieth of its peak at midnight to the peak at noon and back, every 24
// h bursty       20 times as many for 10 to 120 s (exponential, mean 40 s), in between hardly any (a fiftieth) cron a
// burst of 5 to 30 at once at full minutes that are multiples of 5, and a few in between heavy-tailed Pareto gaps
// (shape 1.3) and Pareto groups at once (shape 1.5): both mean and burst have no variance kInvalidArgument: another
// kind, or numbers that make no trace or too long a one.
Result<Trace> generate(const Pattern& pattern);

}  // namespace granary::sim
