// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "agent/adaptive/policy.h"
#include "agent/sim/simulate.h"

namespace granary::sim {

// What a pool's configuration says, as agent/config.h has it.
struct Limits {
  uint32_t min = 0;
  uint32_t size = 64;
  double hit_target = 0.99;
  std::optional<uint64_t> memory_budget = {};  // of the idle clones alone
};

// `clones` all the time, or what size_pools() lets it keep of them.
Sizer fixed_sizer(const Node& node, const Limits& limits, uint32_t clones);

// The agent's own policy and its size_pools(). `policy` may have learned before; it must outlive the sizer.
Sizer adaptive_sizer(const Node& node, const Limits& limits, adaptive::Policy& policy);

// What a horizontal autoscaler would do that takes idle clones for replicas: every 15 s so many that half of them would
// be in use (the mean of the looks), unless that is within a tenth of what there is; never less than it wanted within
// the last 5 minutes.
Sizer autoscaler_sizer(const Node& node, const Limits& limits);

}  // namespace granary::sim
