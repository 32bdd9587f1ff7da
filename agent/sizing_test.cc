// SPDX-License-Identifier: Apache-2.0
#include "agent/sizing.h"

#include <gtest/gtest.h>

#include <random>

namespace granary::agent {
namespace {

constexpr auto kNone = PressureLevel::kNone;
constexpr std::optional<uint64_t> kNoBudget;

std::vector<uint32_t> idle(const std::vector<PoolTarget>& targets) {
  std::vector<uint32_t> counts;
  for (const PoolTarget& target : targets) counts.push_back(target.idle);
  return counts;
}
using Counts = std::vector<uint32_t>;

// Costs of 8: one more than is there costs 9.
PoolDemand pool(uint32_t size, uint32_t min = 0, uint32_t have = 0) {
  return {.size = size, .min = min, .idle = have, .clone_bytes = 8, .other_bytes = 0, .budget = {}};
}
PoolDemand with_budget(PoolDemand demand, uint64_t budget, uint64_t other_bytes = 0) {
  demand.budget = budget;
  demand.other_bytes = other_bytes;
  return demand;
}

TEST(SizingTest, WithoutBudgetsAndPressureEveryPoolHasItsSize) {
  const std::vector<PoolDemand> pools = {pool(4), pool(0), pool(4096, 9, 1)};
  for (const PoolTarget& target : size_pools(pools, kNoBudget, kNone)) EXPECT_EQ(target.bound, Bound::kNone);
  EXPECT_EQ(idle(size_pools(pools, kNoBudget, kNone)), (Counts{4, 0, 4096}));
  EXPECT_TRUE(size_pools({}, 7, kNone).empty());
}

TEST(SizingTest, APoolsBudgetCountsWhatElseItUses) {
  const auto target = [](const PoolDemand& demand) { return size_pools(std::vector{demand}, kNoBudget, kNone)[0]; };
  EXPECT_EQ(target(with_budget(pool(4), 36)), (PoolTarget{4, Bound::kNone}));
  EXPECT_EQ(target(with_budget(pool(4), 35)), (PoolTarget{3, Bound::kPoolBudget}));
  EXPECT_EQ(target(with_budget(pool(4), 36, 1)), (PoolTarget{3, Bound::kPoolBudget}));
  EXPECT_EQ(target(with_budget(pool(4), 36, 37)), (PoolTarget{0, Bound::kPoolBudget}));
  EXPECT_EQ(target(with_budget(pool(4), 0)), (PoolTarget{0, Bound::kPoolBudget}));
}

TEST(SizingTest, WhatIsThereStaysWhereOneMoreWouldNotGo) {
  const auto target = [](uint32_t have, uint64_t budget) {
    return size_pools(std::vector{with_budget(pool(9, 0, have), budget)}, kNoBudget, kNone)[0].idle;
  };
  EXPECT_EQ(target(3, 32), 3u);
  EXPECT_EQ(target(4, 32), 4u);
  EXPECT_EQ(target(4, 31), 3u);
  EXPECT_EQ(target(4, 41), 5u);
}

TEST(SizingTest, ABudgetShedsNothingUpToMinButLetsNothingGrowThere) {
  const auto target = [](uint32_t have, std::optional<uint64_t> own, std::optional<uint64_t> node) {
    PoolDemand demand = pool(6, 3, have);
    demand.budget = own;
    return size_pools(std::vector{demand}, node, kNone)[0].idle;
  };
  EXPECT_EQ(target(5, 0, kNoBudget), 3u);
  EXPECT_EQ(target(2, 0, kNoBudget), 2u);
  EXPECT_EQ(target(0, 0, kNoBudget), 0u);
  EXPECT_EQ(target(5, kNoBudget, 0), 3u);
  EXPECT_EQ(target(2, kNoBudget, 0), 2u);
}

TEST(SizingTest, TheNodesBudgetGoesToEveryMinFirst) {
  // 5 clones at 9 each.
  EXPECT_EQ(idle(size_pools(std::vector{pool(10), pool(4, 4), pool(2, 1)}, 45, kNone)), (Counts{0, 4, 1}));
  // Too little even for that: in turn, in proportion to the mins.
  EXPECT_EQ(idle(size_pools(std::vector{pool(9, 6), pool(9, 3)}, 27, kNone)), (Counts{2, 1}));
}

TEST(SizingTest, TheRestGoesInProportion) {
  const auto targets = size_pools(std::vector{pool(8), pool(4), pool(4)}, 8 * 9, kNone);
  EXPECT_EQ(idle(targets), (Counts{4, 2, 2}));
  for (const PoolTarget& target : targets) EXPECT_EQ(target.bound, Bound::kNodeBudget);
  EXPECT_EQ(idle(size_pools(std::vector{pool(1), pool(1), pool(1)}, 18, kNone)), (Counts{1, 1, 0}));
}

TEST(SizingTest, WhatOnePoolMayNotHaveIsOthers) {
  EXPECT_EQ(idle(size_pools(std::vector{with_budget(pool(8), 9), pool(8)}, 8 * 9, kNone)), (Counts{1, 7}));
  PoolDemand large = pool(2);
  large.clone_bytes = 800;
  EXPECT_EQ(idle(size_pools(std::vector{large, pool(3)}, 100, kNone)), (Counts{0, 3}));
}

TEST(SizingTest, HeldClonesAndRetiredPoolsCountForTheNode) {
  PoolDemand busy = pool(4);
  busy.other_bytes = 20;
  PoolDemand retired = pool(0);
  retired.other_bytes = 7;
  EXPECT_EQ(idle(size_pools(std::vector{busy, pool(4), retired}, 20 + 7 + 36, kNone)), (Counts{2, 2, 0}));
  EXPECT_EQ(idle(size_pools(std::vector{busy, pool(4), retired}, 26, kNone)), (Counts{0, 0, 0}));
}

TEST(SizingTest, WhatIsBeingReclaimedIsNoReasonToShedMoreButToGrowLater) {
  const auto target = [](uint32_t have, uint64_t going, std::optional<uint64_t> own, std::optional<uint64_t> node) {
    PoolDemand demand = pool(9, 0, have);
    demand.budget = own;
    demand.going_bytes = going;
    return size_pools(std::vector{demand}, node, kNone)[0].idle;
  };
  for (const bool is_own : {true, false}) {
    const std::optional<uint64_t> own = is_own ? std::optional<uint64_t>(50) : kNoBudget;
    const std::optional<uint64_t> node = is_own ? kNoBudget : std::optional<uint64_t>(50);
    EXPECT_EQ(target(4, 30, own, node), 4u);
    EXPECT_EQ(target(4, 9, own, node), 5u);
    EXPECT_EQ(target(4, 10, own, node), 4u);
    EXPECT_EQ(target(0, 30, own, node), 2u);
  }
}

TEST(SizingTest, ANeighbourGivesBackWhatItHasBeyondItsShare) {
  EXPECT_EQ(idle(size_pools(std::vector{pool(6, 0, 6), pool(6, 2, 0)}, 48, kNone)), (Counts{3, 2}));
}

TEST(SizingTest, HighPressureHalvesWhatIsBeyondMin) {
  const auto at = [](PressureLevel level, uint32_t have) {
    return size_pools(std::vector{pool(10, 2, have)}, kNoBudget, level)[0];
  };
  EXPECT_EQ(at(PressureLevel::kHigh, 10), (PoolTarget{6, Bound::kPressure}));
  EXPECT_EQ(at(PressureLevel::kHigh, 6).idle, 4u);
  EXPECT_EQ(at(PressureLevel::kHigh, 3).idle, 2u);
  EXPECT_EQ(at(PressureLevel::kHigh, 2).idle, 2u);
  EXPECT_EQ(at(PressureLevel::kHigh, 0).idle, 2u) << "min is filled";
}

TEST(SizingTest, HoldNeitherShedsNorGrows) {
  const auto at = [](uint32_t have) {
    return size_pools(std::vector{pool(10, 2, have)}, kNoBudget, PressureLevel::kHold)[0];
  };
  EXPECT_EQ(at(7), (PoolTarget{7, Bound::kPressure}));
  EXPECT_EQ(at(1).idle, 2u);
  EXPECT_EQ(at(10), (PoolTarget{10, Bound::kNone}));
  EXPECT_EQ(at(12), (PoolTarget{10, Bound::kNone}));
}

TEST(SizingTest, CriticalShedsMinToo) {
  EXPECT_EQ(idle(size_pools(std::vector{pool(9, 9, 9), pool(1)}, 1000, PressureLevel::kCritical)), (Counts{0, 0}));
  EXPECT_EQ(size_pools(std::vector{pool(0)}, kNoBudget, PressureLevel::kCritical)[0],
            (PoolTarget{0, Bound::kPressure}));
}

TEST(SizingTest, NobodyGrowsOnWhatANeighbourMayKeep) {
  EXPECT_EQ(idle(size_pools(std::vector{pool(3, 3, 3), pool(3, 3, 0)}, 3 * 8, kNone)), (Counts{3, 0}));
}

TEST(SizingTest, AmongPoolsThatKnowTheirWorthTheBestUsedClonesComeFirst) {
  PoolDemand busy = pool(4);
  busy.worth = {5, 4, 3, 0.1F};
  PoolDemand quiet = pool(4);
  quiet.worth = {1, 0.5F, 0.2F, 0};
  EXPECT_EQ(idle(size_pools(std::vector{quiet, busy}, 4 * 9, kNone)), (Counts{1, 3}));
  // Small clones are worth more per byte.
  quiet.clone_bytes = 1;
  EXPECT_EQ(idle(size_pools(std::vector{quiet, busy}, 9 + 2, kNone)), (Counts{2, 1}));
  // What a pool that knows nothing is due stays its own.
  quiet.clone_bytes = 8;
  EXPECT_EQ(idle(size_pools(std::vector{quiet, pool(4), busy}, 6 * 9, kNone)), (Counts{1, 2, 3}));
  quiet.min = 2;
  EXPECT_EQ(idle(size_pools(std::vector{quiet, busy}, 4 * 9, kNone)), (Counts{2, 2}));
}

// Whatever the numbers: never above the size, nothing shed up to min, and no growth over a budget.
TEST(SizingTest, HoldsItsPromisesForAnyNumbers) {
  std::minstd_rand random(1);
  const auto below = [&](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
  for (int round = 0; round < 2000; ++round) {
    std::vector<PoolDemand> pools(1 + below(5));
    for (PoolDemand& p : pools) {
      p.size = below(20);
      p.min = below(p.size + 1);
      p.idle = below(25);
      p.clone_bytes = 1 + below(50);
      p.other_bytes = below(200);
      if (below(2) == 0) p.budget = below(900);
      const bool knows = below(2) == 0;
      for (uint32_t n = 0; n < p.size && knows; ++n) p.worth.push_back(1 / (1.0F + static_cast<float>(n)));
    }
    const uint64_t node = below(2000);
    const auto targets = size_pools(pools, node, kNone);
    uint64_t all = 0;
    bool grows = false;
    for (size_t i = 0; i < pools.size(); ++i) {
      const uint32_t kept = std::min(pools[i].min, pools[i].idle);
      const uint64_t used = pools[i].other_bytes + targets[i].idle * pools[i].clone_bytes;
      EXPECT_LE(targets[i].idle, pools[i].size);
      EXPECT_GE(targets[i].idle, kept);
      const bool beyond_kept = targets[i].idle > kept;
      EXPECT_LE(beyond_kept ? used : 0, pools[i].budget.value_or(UINT64_MAX));
      grows = grows || beyond_kept;
      all += used;
    }
    EXPECT_LE(grows ? all : 0, node);
  }
}

}  // namespace
}  // namespace granary::agent
