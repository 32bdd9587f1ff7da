// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive_sizing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>

namespace granary::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr double kWall = 1'800'000'000;

class AdaptiveSizingTest : public testing::Test {
 protected:
  AdaptiveSizingTest() {
    settings_.name = "a";
    settings_.size = 40;
    settings_.adaptive = true;
    settings_.refill_concurrency = 8;
  }
  ~AdaptiveSizingTest() override { ::remove(path_.c_str()); }
  // Looks once a second, with so many acquires in between.
  uint32_t live(AdaptiveSizing& sizing, int looks, int acquires) {
    uint32_t wish = 0;
    for (int i = 0; i < looks; ++i) {
      for (int n = 0; n < acquires; ++n) sizing.asked("a", now_ + milliseconds(1000 * n / acquires));
      if (acquires > 0) sizing.refilled("a", 0.5);
      usage_.hits += static_cast<uint64_t>(acquires);
      now_ += seconds(1);
      wish = sizing.decide(settings_, usage_, {.now = now_, .wall = kWall}).wish;
    }
    return wish;
  }

  std::string path_ = testing::TempDir() + "adaptive_sizing_test." + std::to_string(::getpid());
  pool::PoolSettings settings_;
  pool::PoolUsage usage_;
  pool::SteadyTime now_{seconds(1000)};
};

TEST_F(AdaptiveSizingTest, WhatPoolsTellReachesTheirPolicy) {
  AdaptiveSizing sizing("");
  EXPECT_EQ(sizing.last("a"), nullptr);
  EXPECT_EQ(live(sizing, 1, 0), 4U);
  EXPECT_THAT(sizing.last("a")->why, testing::HasSubstr("acquires/s"));
  const uint32_t busy = live(sizing, 900, 12);
  EXPECT_GE(busy, 6U);
  EXPECT_THAT(sizing.last("a")->why, testing::HasSubstr("a refill takes 0.5 s"));
  sizing.allowed("a", 0);
  EXPECT_LE(live(sizing, 1, 12), 4U) << "it grows from what it was allowed";
  EXPECT_TRUE(sizing.save(kWall)) << "nowhere";
}

TEST_F(AdaptiveSizingTest, ASuccessorTakesUpWhatWasLearned) {
  uint32_t wish = 0;
  {
    AdaptiveSizing sizing(path_);
    wish = live(sizing, 900, 12);
    ASSERT_GE(wish, 6U);
    ASSERT_TRUE(sizing.save(kWall));
  }
  AdaptiveSizing next(path_);
  ASSERT_TRUE(next.save(kWall)) << "and keeps it before it is used";
  AdaptiveSizing third(path_);
  EXPECT_EQ(live(third, 1, 0), wish);
  third.keep_only({"b"});
  EXPECT_EQ(third.last("a"), nullptr);
  EXPECT_EQ(live(third, 1, 0), 4U) << "it was forgotten";
}

TEST_F(AdaptiveSizingTest, APoolThatTellsTooMuchIsBounded) {
  AdaptiveSizing sizing("");
  live(sizing, 1, 0);
  for (int i = 0; i < 200'000; ++i) sizing.asked("a", now_);
  for (int i = 0; i < 200'000; ++i) sizing.asked("unknown", now_);
  EXPECT_LE(live(sizing, 1, 0), 40U);
}

TEST_F(AdaptiveSizingTest, CountersOfAPoolThatTookOverANameStartAnew) {
  AdaptiveSizing sizing(path_);
  usage_.hits = 1000;
  live(sizing, 2, 0);
  usage_.hits = 3;
  usage_.misses = 1;
  live(sizing, 1, 0);
  ASSERT_TRUE(sizing.save(kWall));
  const auto kept = adaptive::load_learned(path_, kWall);
  ASSERT_TRUE(kept);
  EXPECT_DOUBLE_EQ(kept->pools.at("a").hits, 3);
  EXPECT_DOUBLE_EQ(kept->pools.at("a").misses, 1);
}

}  // namespace
}  // namespace granary::agent
