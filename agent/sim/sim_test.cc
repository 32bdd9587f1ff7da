// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "agent/sim/generate.h"
#include "agent/sim/report.h"
#include "agent/sim/simulate.h"

namespace granary::sim {
namespace {

using testing::HasSubstr;

Node node(double refill_seconds, uint32_t concurrency) {
  return {.refill = {.seconds = refill_seconds, .concurrency = concurrency}};
}

TEST(SimulateTest, AWarmCloneIsTakenElseTheAcquireWaits) {
  const Outcome two = simulate({0, 0, 0, 10}, node(1, 1), {.name = "two", .first = 2});
  EXPECT_EQ(two.hits, 3u);
  EXPECT_EQ(two.misses(), 1u);
  EXPECT_DOUBLE_EQ(two.wait_max, 1);
  EXPECT_DOUBLE_EQ(two.wait_p50, 0);
  const Outcome none = simulate({0, 0, 5}, node(1, 1), {.name = "none", .first = 0});
  EXPECT_EQ(none.hits, 0u);
  EXPECT_DOUBLE_EQ(none.wait_max, 2) << "the second waits for the first's refill";
  EXPECT_DOUBLE_EQ(none.clone_seconds, 3) << "only what is being made";
}

TEST(SimulateTest, IdleMemoryIsTheSizeWhileNobodyWaits) {
  const Outcome outcome = simulate({0, 50, 100}, node(1, 2), {.name = "three", .first = 3});
  EXPECT_DOUBLE_EQ(outcome.mean_idle(), 3);
}

TEST(SimulateTest, ShrinkingEvicts) {
  const Sizer sizer{.name = "s", .first = 5, .look = [](const Sight& sight) { return sight.now < 10 ? 5U : 2U; }};
  const Outcome outcome = simulate({0, 20}, node(1, 2), sizer);
  EXPECT_EQ(outcome.evictions, 3u);
  EXPECT_EQ(outcome.resizes, 1u);
  EXPECT_THAT(outcome.sizes.back(), testing::Pair(10, 2));
}

TEST(SimulateTest, ARefillThatHangsIsGivenUp) {
  Node bad = node(1, 1);
  bad.refill.hang_percent = 50;
  bad.refill.timeout_seconds = 10;
  const Trace trace = *generate({.kind = "steady", .rate = 0.01, .hours = 24});
  const Outcome outcome = simulate(trace, bad, {.name = "one", .first = 1});
  EXPECT_EQ(outcome.acquires, trace.size());
  EXPECT_GT(outcome.misses(), simulate(trace, node(1, 1), {.name = "one", .first = 1}).misses());
  adaptive::Policy policy;
  const Outcome adaptive = simulate(trace, bad, adaptive_sizer(bad, {.size = 8}, policy));
  for (const auto& [when, size] : adaptive.sizes) EXPECT_LE(size, 8u);
}

// The number that RefillQueue gives for each acquire says what every fixed size does with it.
TEST(SimulateTest, OneQueueForetellsEverySize) {
  const Node three = node(0.7, 3);
  const Trace trace = *generate({.kind = "bursty", .rate = 0.5, .hours = 6});
  adaptive::RefillQueue queue;
  std::vector<uint64_t> hits(20);
  for (const double t : trace) {
    for (size_t size = queue.ask(t, 0.7, 3) + 1; size < hits.size(); ++size) ++hits[size];
  }
  for (uint32_t size = 0; size < hits.size(); ++size) {
    EXPECT_EQ(simulate(trace, three, {.name = "", .first = size}).hits, hits[size]) << size;
  }
}

// For any trace, node and limits: within the bounds and the budget, and every acquire is served.
TEST(SimulateTest, AdaptiveHoldsItsPromisesForAnyTrace) {
  const char* const kinds[] = {"steady", "diurnal", "bursty", "cron", "heavy-tailed"};
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Trace trace =
        *generate({.kind = kinds[seed % 5], .rate = 0.02 * static_cast<double>(seed), .hours = 2, .seed = seed});
    // A day without an acquire in the middle of some.
    for (size_t i = trace.size() / 2; i < trace.size() && seed % 3 == 0; ++i) trace[i] += 86'400;
    Node any = node(0.05 * static_cast<double>(1 + seed % 30), 1 + static_cast<uint32_t>(seed % 6));
    any.refill.spread_seconds = seed % 3 == 0 ? 0.4 : 0;
    any.tick_seconds = seed % 4 == 0 ? 7 : 1;
    Limits limits{.min = static_cast<uint32_t>(seed % 4), .size = static_cast<uint32_t>(seed % 4 + seed % 13)};
    const uint64_t clones = seed % 7;
    if (seed % 2 == 0) limits.memory_budget = clones * any.clone_bytes + any.clone_bytes * clones / 8;
    adaptive::Policy policy;
    const Outcome outcome = simulate(trace, any, adaptive_sizer(any, limits, policy));
    EXPECT_EQ(outcome.acquires, trace.size());
    for (const auto& [when, size] : outcome.sizes) {
      ASSERT_LE(size, limits.size) << seed;
      if (limits.memory_budget) {
        ASSERT_LE(size, std::max<uint64_t>(clones + clones / 8, limits.min)) << seed;
      } else {
        ASSERT_GE(size, limits.min) << seed;
      }
    }
  }
}

TEST(SimulateTest, ABudgetBelowOneCloneKeepsNone) {
  const Node any = node(0.5, 2);
  const Trace trace = *generate({.kind = "steady", .rate = 1, .hours = 1});
  const Comparison comparison = compare("t", trace, any, {.size = 4, .memory_budget = any.clone_bytes - 1});
  EXPECT_EQ(comparison.adaptive.hits, 0u);
  EXPECT_EQ(comparison.autoscaler.hits, 0u);
  EXPECT_EQ(comparison.fixed.back().hits, 0u);
  EXPECT_THAT(to_table(comparison), HasSubstr("no fixed size up to 4 has 99 % hits"));
}

TEST(ReportTest, TableJsonAndPlotSayTheSame) {
  const Trace trace = *generate({.kind = "bursty", .rate = 0.3, .hours = 6});
  const Comparison comparison = compare("bursty <&", trace, node(0.5, 8), {.size = 20});
  const Verdict verdict = judge(comparison);
  ASSERT_TRUE(verdict.best_fixed);
  const auto json = nlohmann::json::parse(to_json(comparison));
  EXPECT_EQ(json["policies"].size(), 23u);
  EXPECT_EQ(json["verdict"]["best_fixed"], *verdict.best_fixed);
  EXPECT_EQ(json["policies"].back()["policy"], "adaptive");
  EXPECT_EQ(json["policies"].back()["misses"], comparison.adaptive.misses());
  EXPECT_THAT(to_table(comparison), testing::AllOf(HasSubstr("fixed(0) "), HasSubstr("<- best in hindsight"),
                                                   HasSubstr("autoscaler"), HasSubstr("no policy of at most 20")));
  const std::string plot = to_plot(comparison, trace);
  EXPECT_THAT(
      plot, testing::AllOf(testing::StartsWith("<svg"), HasSubstr("bursty &lt;&amp;"), testing::EndsWith("</svg>\n")));
  EXPECT_LT(plot.size(), 20'000u);
}

TEST(ReportTest, EqualMemoryLiesBetweenTwoSizes) {
  Comparison comparison;
  comparison.limits.size = 2;
  for (const uint64_t hits : {0U, 60U, 100U}) {
    comparison.fixed.push_back({.acquires = 100,
                                .hits = hits,
                                .clone_seconds = 10.0 * static_cast<double>(comparison.fixed.size()),
                                .seconds = 10});
  }
  comparison.adaptive = {.acquires = 100, .hits = 90, .clone_seconds = 15, .seconds = 10};
  const Verdict verdict = judge(comparison);
  EXPECT_DOUBLE_EQ(verdict.misses_at_equal_memory, 20);
  EXPECT_DOUBLE_EQ(verdict.miss_ratio, 0.5);
  EXPECT_EQ(verdict.best_fixed, 2u);
  EXPECT_DOUBLE_EQ(verdict.memory_ratio, 0.75);
  EXPECT_EQ(verdict.unavoidable, 0u);
}

}  // namespace
}  // namespace granary::sim
