// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/figures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace granary::bench {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<double> one_to(int n) {
  std::vector<double> samples;
  for (int i = n; i > 0; --i) samples.push_back(i);
  return samples;
}

void expect(const Percentiles& got, double p50, double p90, double p99, double max) {
  EXPECT_EQ(got.p50, p50);
  EXPECT_EQ(got.p90, p90);
  EXPECT_EQ(got.p99, p99);
  EXPECT_EQ(got.max, max);
}

TEST(Percentiles, NearestRankGivesMeasuredSamples) {
  expect(percentiles(one_to(100)), 50, 90, 99, 100);
  expect(percentiles(one_to(10)), 5, 9, 10, 10);
  expect(percentiles(one_to(5)), 3, 5, 5, 5);
  expect(percentiles(one_to(2)), 1, 2, 2, 2);
  expect(percentiles({7}), 7, 7, 7, 7);
  expect(percentiles(one_to(1000)), 500, 900, 990, 1000);
}

const Row kMeasured{"restore_shell", "tiny", "us", "a \"b\" \\ c\n", {3, 1.5, 2.25}, ""};
const Row kSkipped{"exec_true", "distro", "ms", "", {}, "no agent"};

TEST(Json, HasTheFieldsOfAMeasuredRow) {
  EXPECT_EQ(to_json({kMeasured}, "node"),
            "[\n  {\"name\": \"restore_shell\", \"where\": \"node\", \"guest\": \"tiny\", \"unit\": \"us\", \"n\": 3, "
            "\"p50\": 2.25, \"p90\": 3, \"p99\": 3, \"max\": 3, \"clock\": \"a \\\"b\\\" \\\\ c\\u000a\"}\n]\n");
}

TEST(Json, SkippedRowsAreNoFigures) {
  EXPECT_EQ(to_json({kSkipped}, "host"), "[]\n");
  EXPECT_THAT(to_json({kSkipped, kMeasured}, "host"), Not(HasSubstr("exec_true")));
}

TEST(Table, SaysWhyARowWasSkipped) {
  EXPECT_THAT(to_table({kMeasured, kSkipped}, "host"), HasSubstr("skipped: no agent\n"));
}

TEST(Table, WideFiguresDoNotTouch) {
  Row wide = kMeasured;
  wide.samples = {1234567890123.125};
  EXPECT_THAT(to_table({wide}, "node"), HasSubstr(" 1234567890123.125 1234567890123.125 "));
}

}  // namespace
}  // namespace granary::bench
