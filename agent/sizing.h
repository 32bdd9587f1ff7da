// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace granary::agent {

// The policy that says how many idle clones each pool keeps: numbers in, numbers out, no clock, no memory of its own.
// Another policy replaces size_pools(); docs/operations.md ("Memory") says what this one promises.

// How short the node is of memory (pressure.h).
enum class PressureLevel {
  kNone,
  kHold,      // it was high a moment ago: nothing is shed, nothing grows
  kHigh,      // half of what is beyond `min` goes, at each look
  kCritical,  // eviction is near: every idle clone goes
};
const char* to_string(PressureLevel level);

struct PoolDemand {
  uint32_t size = 0;               // idle clones wished for
  uint32_t min = 0;                // at most `size`
  uint32_t idle = 0;               // warm, or on their way there
  uint64_t clone_bytes = 1;        // of one idle clone
  uint64_t other_bytes = 0;        // counts too: template, shells, what held clones touched before their hand-over
  uint64_t going_bytes = 0;        // is being reclaimed: room for what is there, not yet for more
  std::optional<uint64_t> budget;  // the pool's own; nothing: none
  // What is known of each idle clone's use, the first one's first: hits per second, not rising, one for each of `size`.
  // Empty: nothing is.
  std::vector<float> worth = {};
};

// What keeps a target below `size`.
enum class Bound { kNone, kPoolBudget, kNodeBudget, kPressure };
const char* to_string(Bound bound);

struct PoolTarget {
  uint32_t idle = 0;
  Bound bound = Bound::kNone;

  bool operator==(const PoolTarget&) const = default;
};

// One target per pool, in the same order. A pool that is to keep nothing has size 0.
//
// In this order: a pool's own budget; the node's budget, every pool's `min` first, then in proportion to what each
// still may have, one clone at a time, where pools that know what their clones are worth take from each other: what
// comes to one of them goes to the one of them where the next clone brings the most hits per byte; pressure. A budget
// never sheds what a pool has up to `min`, but does not let it grow there. Clones that are there are counted with
// `clone_bytes`, further ones with an eighth more: so a mean that wavers does not make clones come and go.
std::vector<PoolTarget> size_pools(std::span<const PoolDemand> pools, std::optional<uint64_t> node_budget,
                                   PressureLevel level);

}  // namespace granary::agent
