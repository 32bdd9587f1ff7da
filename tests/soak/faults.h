// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "tests/soak/target.h"

namespace granary::soak {

using Random = std::mt19937_64;

// Something that goes wrong for a while. `begin` gives what ends it again (may be empty).
struct Fault {
  std::string name;
  std::function<std::function<void()>(Target&, Random&)> begin;
};

// Faults that leave granaryd and granary-spawn running: killed, stopped and resumed VMMs, no descriptors (agent,
// spawner), no memory for VMMs, a full run folder, a slow disk while a template is written; on a machine of our own
// (`own_clock`) also jumps of the wall clock.
std::vector<Fault> lasting_faults(const Target& target, bool own_clock);
// granaryd and granary-spawn killed.
std::vector<Fault> deadly_faults();

}  // namespace granary::soak
