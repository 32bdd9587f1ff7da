// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive/demand.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "agent/adaptive/pricing.h"
#include "agent/adaptive/refill_queue.h"

namespace granary::adaptive {
namespace {

TEST(RefillQueueTest, CountsWhatIsOutstandingOneAtATime) {
  RefillQueue queue;
  EXPECT_EQ(queue.ask(0, 1, 1), 0u);
  EXPECT_EQ(queue.ask(0, 1, 1), 1u);
  EXPECT_EQ(queue.ask(0.5, 1, 1), 2u);
  EXPECT_EQ(queue.ask(1, 1, 1), 2u) << "the first is done, the second has begun";
  EXPECT_EQ(queue.ask(3.9, 1, 1), 1u);
  EXPECT_EQ(queue.ask(100, 1, 1), 0u);
}

TEST(RefillQueueTest, SeveralAtATime) {
  RefillQueue queue;
  for (uint32_t n = 0; n < 6; ++n) EXPECT_EQ(queue.ask(0, 1, 3), n);
  EXPECT_EQ(queue.ask(1, 1, 3), 3u);
  EXPECT_EQ(queue.ask(2, 1, 3), 1u);
}

TEST(RefillQueueTest, IsBoundedAndSurvivesTimesThatGoBack) {
  RefillQueue queue;
  uint32_t most = 0;
  for (int i = 0; i < 20'000; ++i) most = std::max(most, queue.ask(100 - i, 1e9, 1));
  EXPECT_EQ(most, RefillQueue::kMost);
  EXPECT_EQ(queue.ask(1e300, 1, 1), 0u);
}

TEST(DemandTest, StepsCoverEveryNumberInOrder) {
  for (uint32_t n = 0; n <= RefillQueue::kMost + 10; ++n) {
    const size_t step = step_of(n);
    ASSERT_LT(step, kSteps);
    EXPECT_LE(clones_for(step), n);
    EXPECT_TRUE(step + 1 == kSteps || clones_for(step + 1) > n) << n;
  }
  for (uint32_t n = 0; n < kExactSizes; ++n) EXPECT_EQ(clones_for(n), n);
}

TEST(DemandTest, PoissonDemandHasItsMean) {
  const Demand demand = poisson_demand(10, 0.5, 1000);
  EXPECT_DOUBLE_EQ(demand.seconds, 100);
  EXPECT_NEAR(demand.total(), 1000, 0.5);
  double mean = 0;
  for (size_t n = 0; n < demand.asked.size(); ++n) mean += static_cast<double>(n) * demand.asked[n];
  EXPECT_NEAR(mean / demand.total(), 5, 0.01);
  EXPECT_EQ(poisson_demand(0, 1, 5), Demand());
}

TEST(DemandTest, ACloneIsKeptWhereItsHitsPayForIt) {
  Demand demand{.seconds = 100};
  demand.ask(0, 50);
  demand.ask(1, 5);
  demand.ask(2, 1);
  EXPECT_EQ(best_choice(demand, 1, 9).clones, 0u);
  EXPECT_EQ(best_choice(demand, 3, 9).clones, 1u);
  EXPECT_EQ(best_choice(demand, 21, 9).clones, 2u);
  EXPECT_EQ(best_choice(demand, 101, 9).clones, 3u);
  EXPECT_EQ(best_choice(demand, 101, 2).clones, 2u);
  EXPECT_DOUBLE_EQ(choice_of(demand, 3, 1).gain, 0.5);
  EXPECT_DOUBLE_EQ(choice_of(demand, 3, 1).hits, 50);
}

// The first clones of a group that comes at once bring nothing alone.
TEST(DemandTest, AGroupIsServedWholeOrNotAtAll) {
  Demand demand{.seconds = 100};
  for (uint32_t n = 0; n < 10; ++n) demand.ask(n, n == 0 ? 0.1 : 1);
  EXPECT_EQ(best_choice(demand, 90, 20).clones, 0u);
  EXPECT_EQ(best_choice(demand, 120, 20).clones, 10u);
  const std::vector<float> worth = worth_of(demand, 10);
  ASSERT_EQ(worth.size(), 10u);
  EXPECT_NEAR(std::accumulate(worth.begin(), worth.end(), 0.0), 9.1 / 100, 1e-6);
  EXPECT_FLOAT_EQ(worth[0], worth[9]) << "all ten alike";
}

TEST(DemandTest, WorthNeverRises) {
  std::minstd_rand random(7);
  for (int round = 0; round < 200; ++round) {
    Demand demand{.seconds = 1.0 + static_cast<double>(random() % 100)};
    for (int i = 0; i < 20; ++i) demand.ask(static_cast<uint32_t>(random() % 100), static_cast<double>(random() % 9));
    const auto clones = static_cast<uint32_t>(random() % 130);
    const std::vector<float> worth = worth_of(demand, clones);
    ASSERT_EQ(worth.size(), clones);
    EXPECT_TRUE(std::is_sorted(worth.rbegin(), worth.rend()));
    EXPECT_TRUE(clones == 0 || worth.back() >= 0);
  }
}

TEST(DemandTest, FadingForgets) {
  Demand demand{.seconds = 8};
  demand.ask(3, 1);
  demand.ask(1, 8);
  demand.fade(0.5);
  EXPECT_DOUBLE_EQ(demand.seconds, 4);
  EXPECT_DOUBLE_EQ(demand.total(), 4.5);
  for (int i = 0; i < 30; ++i) demand.fade(0.5);
  EXPECT_TRUE(demand.asked.empty());
}

TEST(PricingTest, ThePriceIsTheLowestThatReachesTheHits) {
  Demand quiet{.seconds = 1000};
  quiet.ask(0, 10);
  Demand busy{.seconds = 10};
  busy.ask(0, 10);
  busy.ask(1, 10);
  const std::vector<const Demand*> both = {&quiet, &busy};
  EXPECT_NEAR(price_for(both, 20, 9), 1, 0.1) << "the busy time's two clones";
  EXPECT_NEAR(price_for(both, 21, 9), 100, 1);
  EXPECT_DOUBLE_EQ(plan_of(both, 50, 9).clone_seconds, 20);
  EXPECT_DOUBLE_EQ(plan_of(both, 150, 9).clone_seconds, 1020);
  EXPECT_NEAR(price_for(both, 31, 9), kMostPrice, 100) << "nothing reaches that";
}

TEST(PricingTest, OneSizeMayBeTwoInTurn) {
  Demand all{.seconds = 10};
  all.ask(0, 8);
  all.ask(1, 2);
  EXPECT_DOUBLE_EQ(seconds_of_one_size(all, 4, 9), 5);
  EXPECT_DOUBLE_EQ(seconds_of_one_size(all, 9, 9), 15);
  EXPECT_DOUBLE_EQ(seconds_of_one_size(all, 9, 1), 10);
}

}  // namespace
}  // namespace granary::adaptive
