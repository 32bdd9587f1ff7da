// SPDX-License-Identifier: Apache-2.0
#include "agent/sizing.h"

#include <algorithm>

namespace granary::agent {
namespace {

uint64_t bytes_left(uint64_t budget, uint64_t used) { return budget > used ? budget - used : 0; }

uint64_t cost_of_next(const PoolDemand& pool, uint32_t have) {
  return pool.clone_bytes + (have < pool.idle ? 0 : pool.clone_bytes / 8);
}

// `going`: what is being reclaimed.
bool next_fits(const PoolDemand& pool, uint32_t have, uint64_t room, uint64_t going) {
  return cost_of_next(pool, have) <= (have < pool.idle ? room : bytes_left(room, going));
}

// What no budget takes away.
uint32_t kept(const PoolDemand& pool) { return std::min(pool.min, pool.idle); }

void lower(PoolTarget& target, uint32_t most, Bound why) {
  if (target.idle <= most) return;
  target = {.idle = most, .bound = why};
}

uint32_t fitting(const PoolDemand& pool, uint64_t room) {
  uint32_t n = 0;
  while (n < pool.size && next_fits(pool, n, room, pool.going_bytes)) room -= cost_of_next(pool, n++);
  return n;
}

// Gives clones one at a time, each to the pool that has the smallest part of its ceiling, until nothing more fits.
class NodeShares {
 public:
  NodeShares(std::span<const PoolDemand> pools, uint64_t room) : pools_(pools), room_(room) {
    for (const PoolDemand& pool : pools) {
      going_ += pool.going_bytes;
      given_.push_back(kept(pool));
      room_ = bytes_left(room_, pool.other_bytes + kept(pool) * pool.clone_bytes);
    }
  }

  void fill(const std::vector<uint32_t>& ceilings) {
    for (std::optional<size_t> next; (next = neediest(ceilings));) {
      if (knows_worth(*next)) next = worthiest(ceilings);
      room_ -= cost_of_next(pools_[*next], given_[*next]);
      ++given_[*next];
    }
  }
  [[nodiscard]] uint32_t given(size_t pool) const { return given_[pool]; }

 private:
  [[nodiscard]] bool knows_worth(size_t pool) const { return !pools_[pool].worth.empty(); }

  // Hits per second and byte that the next clone brings.
  [[nodiscard]] double worth_of_next(size_t pool) const {
    const PoolDemand& demand = pools_[pool];
    const size_t next = given_[pool];
    return next < demand.worth.size()
               ? demand.worth[next] / static_cast<double>(std::max<uint64_t>(demand.clone_bytes, 1))
               : 0;
  }

  // Of those that know, and there is one that may have another clone.
  [[nodiscard]] std::optional<size_t> worthiest(const std::vector<uint32_t>& ceilings) const {
    std::optional<size_t> found;
    for (size_t i = 0; i < pools_.size(); ++i) {
      if (!knows_worth(i) || given_[i] >= ceilings[i] || !next_fits(pools_[i], given_[i], room_, going_)) continue;
      if (!found || worth_of_next(i) > worth_of_next(*found)) found = i;
    }
    return found;
  }

  // Those that know count as one pool.
  struct Part {
    uint64_t given = 0;
    uint64_t ceiling = 0;
  };
  [[nodiscard]] Part part_of(size_t pool, const std::vector<uint32_t>& ceilings) const {
    if (!knows_worth(pool)) return {.given = given_[pool], .ceiling = ceilings[pool]};
    Part together;
    for (size_t i = 0; i < pools_.size(); ++i) {
      if (!knows_worth(i)) continue;
      together.given += given_[i];
      together.ceiling += ceilings[i];
    }
    return together;
  }

  [[nodiscard]] std::optional<size_t> neediest(const std::vector<uint32_t>& ceilings) const {
    std::optional<size_t> found;
    Part least;
    for (size_t i = 0; i < pools_.size(); ++i) {
      if (given_[i] >= ceilings[i] || !next_fits(pools_[i], given_[i], room_, going_)) continue;
      const Part part = part_of(i, ceilings);
      if (found && part.given * least.ceiling >= least.given * part.ceiling) continue;
      found = i;
      least = part;
    }
    return found;
  }

  std::span<const PoolDemand> pools_;
  uint64_t room_;
  uint64_t going_ = 0;
  std::vector<uint32_t> given_;
};

void share_node(std::span<const PoolDemand> pools, std::vector<PoolTarget>& targets, uint64_t room) {
  std::vector<uint32_t> mins;
  std::vector<uint32_t> wished;
  for (size_t i = 0; i < pools.size(); ++i) {
    mins.push_back(std::min(pools[i].min, targets[i].idle));
    wished.push_back(targets[i].idle);
  }
  NodeShares shares(pools, room);
  shares.fill(mins);
  shares.fill(wished);
  for (size_t i = 0; i < pools.size(); ++i) lower(targets[i], shares.given(i), Bound::kNodeBudget);
}

// How many idle clones may be there under pressure.
uint32_t bearable(const PoolDemand& pool, PressureLevel level) {
  const uint32_t beyond_min = pool.idle > pool.min ? pool.idle - pool.min : 0;
  switch (level) {
    case PressureLevel::kNone:
      break;
    case PressureLevel::kHold:
      return pool.min + beyond_min;
    case PressureLevel::kHigh:
      return pool.min + beyond_min / 2;
    case PressureLevel::kCritical:
      return 0;
  }
  return pool.size;
}

}  // namespace

const char* to_string(PressureLevel level) {
  constexpr const char* kNames[] = {"none", "hold", "high", "critical"};
  return kNames[static_cast<size_t>(level)];
}

const char* to_string(Bound bound) {
  constexpr const char* kNames[] = {"", "the pool's memory_budget", "the node's memory_budget", "memory pressure"};
  return kNames[static_cast<size_t>(bound)];
}

std::vector<PoolTarget> size_pools(std::span<const PoolDemand> pools, std::optional<uint64_t> node_budget,
                                   PressureLevel level) {
  std::vector<PoolTarget> targets;
  for (const PoolDemand& pool : pools) {
    PoolTarget target{.idle = pool.size};
    if (pool.budget) lower(target, fitting(pool, bytes_left(*pool.budget, pool.other_bytes)), Bound::kPoolBudget);
    targets.push_back(target);
  }
  if (node_budget) share_node(pools, targets, *node_budget);
  for (size_t i = 0; i < pools.size(); ++i) {
    targets[i].idle = std::max(targets[i].idle, kept(pools[i]));
    lower(targets[i], bearable(pools[i], level), Bound::kPressure);
    // Also where nothing was wished for: the bound takes a pool's shells, too.
    if (level == PressureLevel::kCritical) targets[i].bound = Bound::kPressure;
  }
  return targets;
}

}  // namespace granary::agent
