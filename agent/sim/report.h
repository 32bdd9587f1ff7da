// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "agent/sim/policies.h"
#include "agent/sim/simulate.h"
#include "agent/sim/trace.h"

namespace granary::sim {

// Every policy over one trace, on the same node.
struct Comparison {
  std::string title = {};  // what the trace is
  Node node = {};
  Limits limits = {};
  std::vector<Outcome> fixed = {};  // of 0, 1, 2 … Limits::size clones
  Outcome adaptive = {};
  Outcome autoscaler = {};
};
Comparison compare(std::string title, const Trace& trace, const Node& node, const Limits& limits);

// What a comparison comes to.
struct Verdict {
  // The smallest fixed size that reaches the hit target, in hindsight; nothing: none does.
  std::optional<size_t> best_fixed = {};
  double memory_ratio = 0;  // idle memory of adaptive to that of the best fixed size; 0: there is none
  // Misses of the best fixed size, or of two in turn, that takes as much idle memory as adaptive.
  double misses_at_equal_memory = 0;
  double miss_ratio = 0;     // adaptive's misses to these; 0: there are none of either
  uint64_t unavoidable = 0;  // misses of the largest size: of a policy within `size` none avoids them
};
Verdict judge(const Comparison& comparison);

std::string to_table(const Comparison& comparison);
std::string to_json(const Comparison& comparison);
// An SVG: misses by idle memory of every policy, and sizes and acquires over time.
std::string to_plot(const Comparison& comparison, const Trace& trace);

}  // namespace granary::sim
