// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

namespace granary::adaptive {
namespace {

using testing::HasSubstr;

constexpr double kWall = 1'800'000'000;

// Looks once a second; acquires come from `rate`, a function of the second.
struct Life {
  Policy policy;
  Look look{.min = 0, .most = 64, .refill_concurrency = 8};
  double now = 0;
  double refill_seconds = 0.5;
  std::vector<uint32_t> wishes = {};
  std::mt19937_64 random{1};

  double gap(double rate) { return -std::log((static_cast<double>(random() >> 11) + 0.5) * 0x1p-53) / rate; }
  Decision second(double rate) {
    look.now = now;
    look.wall = kWall + now;
    const Decision decision = policy.decide(look);
    wishes.push_back(decision.wish);
    if (rate > 0) {
      for (double t = now + gap(rate); t < now + 1; t += gap(rate)) policy.asked(t);
    }
    policy.refilled(refill_seconds);
    now += 1;
    return decision;
  }
  void seconds(int count, double rate) {
    for (int i = 0; i < count; ++i) second(rate);
  }
  uint32_t reversals() const {
    uint32_t found = 0;
    int direction = 0;
    for (size_t i = 1; i < wishes.size(); ++i) {
      if (wishes[i] == wishes[i - 1]) continue;
      const int next = wishes[i] > wishes[i - 1] ? 1 : -1;
      if (direction != 0 && next != direction) ++found;
      direction = next;
    }
    return found;
  }
};

TEST(PolicyTest, StartsSensiblyWithNothingKnown) {
  Life life;
  const Decision first = life.second(0);
  EXPECT_EQ(first.wish, 4u);
  EXPECT_TRUE(first.changed);
  EXPECT_THAT(first.why, HasSubstr("acquires/s"));
  life.seconds(500, 0);
  EXPECT_EQ(life.wishes.back(), 4u) << "not before it has seen something";
  life.seconds(3600, 0);
  EXPECT_EQ(life.wishes.back(), 0u);
  Life bounded;
  bounded.look.most = 2;
  EXPECT_EQ(bounded.second(0).wish, 2u);
  bounded.look.min = bounded.look.most = 9;
  EXPECT_EQ(bounded.second(0).wish, 9u);
}

TEST(PolicyTest, GrowsAtOnceForWhatItHasLearnedABurstIs) {
  Life life;
  life.look.hit_target = 0.95;  // the first seconds of each are lost
  for (int i = 0; i < 20; ++i) {
    life.seconds(40, 12);
    life.seconds(560, 0.01);
  }
  const uint32_t quiet = life.wishes.back();
  EXPECT_LE(quiet, 3u);
  const size_t begin = life.wishes.size();
  life.seconds(40, 12);
  EXPECT_GE(life.wishes[begin + 4], 9u) << "in four looks";
  life.seconds(300, 0.01);
  EXPECT_LE(life.wishes.back(), 4u) << "and gives it back";
}

TEST(PolicyTest, AConstantLoadBringsNoOscillation) {
  for (const double rate : {0.01, 0.2, 1.0, 5.0, 20.0}) {
    Life life;
    life.look.refill_concurrency = 16;
    life.seconds(4 * 3600, rate);
    life.wishes.clear();
    life.seconds(24 * 3600, rate);
    EXPECT_LE(life.reversals(), 24u) << rate << ": once an hour at most";
  }
}

TEST(PolicyTest, ChangesAreBounded) {
  Life life;
  life.seconds(100, 100);
  life.seconds(2000, 0.001);
  for (size_t i = 1; i < life.wishes.size(); ++i) {
    const uint32_t before = life.wishes[i - 1];
    EXPECT_LE(life.wishes[i], before + std::max(before, 4U));
    EXPECT_GE(life.wishes[i] + std::max(before / 4, 1U), before);
  }
}

TEST(PolicyTest, ARefillThatNeverCompletesCountsWithItsAge) {
  Life life;
  life.seconds(1200, 1);
  const uint32_t before = life.wishes.back();
  for (int i = 0; i < 300; ++i) {
    life.look.oldest_refill_seconds = std::min(i, 30);
    life.second(1);
  }
  EXPECT_GT(life.wishes.back(), before + 4);
  EXPECT_LE(life.wishes.back(), 64u);
}

// The same acquires, refills that take longer: more clones.
TEST(PolicyTest, TheMeasuredRefillTimeDecides) {
  std::vector<uint32_t> wishes;
  for (const double seconds : {0.1, 0.5, 3.0}) {
    Life life;
    life.refill_seconds = seconds;
    life.seconds(4000, 3);
    wishes.push_back(life.wishes.back());
  }
  EXPECT_LT(wishes[0], wishes[1]);
  EXPECT_LT(wishes[1], wishes[2]);
}

TEST(PolicyTest, ItGrowsFromWhatPressureLeft) {
  Life life;
  life.seconds(2000, 15);
  ASSERT_GT(life.wishes.back(), 10u);
  life.look.allowed = 0;
  const Decision left = life.second(15);
  EXPECT_LE(left.wish, 4u);
  EXPECT_THAT(left.why, HasSubstr("; budgets and pressure left 0"));
}

TEST(PolicyTest, ScheduledBurstsArePreparedForOnceTheyWereSeen) {
  Life life;
  std::vector<uint32_t> before_burst;
  for (int hour = 0; hour < 30; ++hour) {
    life.seconds(1797, 0.001);
    before_burst.push_back(life.wishes.back());
    life.seconds(3, 0.001);
    life.seconds(1, 15);
    life.seconds(1799, 0.001);
  }
  EXPECT_GE(before_burst.back(), 10u);
  const double mean = std::accumulate(life.wishes.end() - 5 * 3600, life.wishes.end(), 0.0) / (5 * 3600);
  EXPECT_LT(mean, 4) << "and not all the time";
}

TEST(PolicyTest, WhatItHasLearnedIsWorthThatMuchToItsSuccessor) {
  Life life;
  life.seconds(4000, 6);
  const uint32_t learned = life.wishes.back();
  ASSERT_GT(learned, 5u);
  Life next{.policy = Policy(life.policy.learned())};
  next.now = 17;
  EXPECT_EQ(next.second(6).wish, learned);
}

// Any clock, any numbers: within the bounds, and the same again for the same.
TEST(PolicyTest, HoldsItsPromisesForAnyObservations) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    std::mt19937_64 random(seed);
    const auto below = [&](uint64_t limit) { return random() % limit; };
    Policy policy;
    Policy twin;
    double now = static_cast<double>(below(1000));
    for (int i = 0; i < 800; ++i) {
      const double jumps[] = {1, 1, 1, 1, 0, -50, 1e-9, 3600, 1e7, 1e12};
      now += jumps[below(10)];
      Look look{.now = now, .wall = below(9) == 0 ? -1e18 : kWall + now, .min = static_cast<uint32_t>(below(8))};
      look.most = look.min + static_cast<uint32_t>(below(200));
      look.refill_concurrency = static_cast<uint32_t>(below(5));
      look.hit_target = static_cast<double>(below(101)) / 100;
      look.hits = below(9);
      look.misses = below(3);
      look.allowed = below(4) == 0 ? static_cast<uint32_t>(below(50)) : UINT32_MAX;
      look.oldest_refill_seconds = below(20) == 0 ? 1e9 : 0;
      for (uint64_t n = below(6) == 0 ? below(300) : below(3); n > 0; --n) {
        policy.asked(now);
        twin.asked(now);
      }
      for (const double seconds : {0.3, -1.0, std::nan(""), 1e300}) {
        if (below(5) == 0) continue;
        policy.refilled(seconds);
        twin.refilled(seconds);
      }
      const Decision decision = policy.decide(look);
      ASSERT_GE(decision.wish, look.min);
      ASSERT_LE(decision.wish, look.most);
      ASSERT_EQ(decision.worth.size(), decision.wish);
      ASSERT_EQ(decision.changed, !decision.why.empty());
      ASSERT_EQ(twin.decide(look).wish, decision.wish);
    }
  }
}

}  // namespace
}  // namespace granary::adaptive
