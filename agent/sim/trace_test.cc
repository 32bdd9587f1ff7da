// SPDX-License-Identifier: Apache-2.0
#include "agent/sim/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "agent/sim/generate.h"

namespace granary::sim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Result<Trace> parse(const std::string& text, size_t most = kMostAcquires) {
  std::istringstream stream(text);
  return parse_trace(stream, "t.csv", most);
}
std::string refusal(const std::string& text, size_t most = kMostAcquires) {
  const auto trace = parse(text, most);
  return trace ? "" : trace.error().context();
}

TEST(TraceTest, ReadsTimesAndCounts) {
  const auto trace = parse("seconds,count\r\n# a comment\n\n1700000000.5\n1700000001, 2\n1700000001,0\n1700000003");
  ASSERT_TRUE(trace) << trace.error().message();
  EXPECT_THAT(*trace, ElementsAre(0, 0.5, 0.5, 2.5));
}

TEST(TraceTest, GapsAreKept) { EXPECT_THAT(*parse("0\n86400\n"), ElementsAre(0, 86'400)); }

TEST(TraceTest, RefusesWithTheLineAndARemedy) {
  EXPECT_THAT(refusal("1\n2\n1.5\n"), HasSubstr("t.csv:3: earlier than the line before; sort"));
  EXPECT_THAT(refusal("1\nx\n"), HasSubstr("t.csv:2: no time; give seconds"));
  EXPECT_THAT(refusal("seconds\nseconds\n"), HasSubstr("t.csv:2: no time"));
  for (const char* absurd : {"nan", "inf", "-1", "1e13", "1e999", "--1", "1;2", "0x10"}) {
    EXPECT_THAT(refusal(std::string(absurd) + "\n"), HasSubstr("t.csv:1: no time")) << absurd;
  }
  for (const char* count : {"1,", "1,-1", "1,x", "1,2,3", "1,1.5"}) {
    EXPECT_THAT(refusal(count), HasSubstr("t.csv:1: no count")) << count;
  }
  EXPECT_THAT(refusal("1\n31622402\n"), HasSubstr("t.csv:2: more than 366 days"));
  EXPECT_THAT(refusal("1\n2,99\n", 99), HasSubstr("t.csv:2: more than 99 acquires"));
  EXPECT_THAT(refusal("1,18446744073709551615\n"), HasSubstr("t.csv:1: more than 20000000 acquires"));
  EXPECT_THAT(refusal(""), HasSubstr("t.csv:1: no acquire"));
  EXPECT_THAT(refusal("# nothing\n1,0\n"), HasSubstr("t.csv:2: no acquire"));
  EXPECT_THAT(refusal("1\n" + std::string(1 << 20, '7')), HasSubstr("t.csv:2: longer than 256 bytes"));
}

// A device or a pipe: it is refused before it has ended.
TEST(TraceTest, ALineWithoutEndIsRefusedAtOnce) {
  std::ifstream endless("/dev/zero");
  const auto trace = parse_trace(endless, "zero");
  ASSERT_FALSE(trace);
  EXPECT_THAT(trace.error().context(), HasSubstr("zero:1: longer than 256 bytes"));
}

TEST(GenerateTest, EveryPatternIsATraceOfItsRateAndTheSameForItsSeed) {
  for (const char* kind : {"steady", "diurnal", "bursty", "cron"}) {
    const Pattern pattern{.kind = kind, .rate = 0.2, .hours = 240};
    const auto trace = generate(pattern);
    ASSERT_TRUE(trace) << kind;
    EXPECT_TRUE(std::ranges::is_sorted(*trace)) << kind;
    EXPECT_NEAR(static_cast<double>(trace->size()), 0.2 * 240 * 3600, 0.2 * 0.2 * 240 * 3600) << kind;
    EXPECT_EQ(*generate(pattern), *trace);
    EXPECT_NE(*generate({.kind = kind, .rate = 0.2, .hours = 240, .seed = 2}), *trace);
  }
  const auto heavy = generate({.kind = "heavy-tailed", .rate = 0.2, .hours = 240});
  ASSERT_TRUE(heavy);
  EXPECT_TRUE(std::ranges::is_sorted(*heavy));
  EXPECT_GT(heavy->size(), 10'000u) << "its mean is slow to show";
}

TEST(GenerateTest, RefusesWhatMakesNoTrace) {
  for (const Pattern& pattern :
       {Pattern{.rate = 0}, Pattern{.rate = -1}, Pattern{.hours = 0}, Pattern{.hours = 1e9}, Pattern{.rate = 1e9},
        Pattern{.rate = 1e-9}, Pattern{.kind = "none"}, Pattern{.rate = std::nan("")}}) {
    EXPECT_FALSE(generate(pattern));
  }
}

}  // namespace
}  // namespace granary::sim
