// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/flight_record.h"

#include <gtest/gtest.h>

namespace granary::pool {
namespace {

WallTime at(int second) { return WallTime(std::chrono::seconds(second)); }

TEST(FlightRecorderTest, KeepsStepsInOrderWithTimes) {
  FlightRecorder recorder;
  recorder.note("restoring", "", at(1));
  recorder.note("probing", "port 1024", at(2));
  const FlightRecord record = recorder.read();
  ASSERT_EQ(record.steps.size(), 2U);
  EXPECT_STREQ(record.steps[0].state, "restoring");
  EXPECT_EQ(record.steps[0].when, at(1));
  EXPECT_STREQ(record.steps[1].state, "probing");
  EXPECT_EQ(record.steps[1].detail, "port 1024");
  EXPECT_EQ(record.dropped, 0U);
  EXPECT_FALSE(recorder.failed());
  EXPECT_EQ(record.failure, "");
}

TEST(FlightRecorderTest, KeepsTheNewestAndSaysHowManyItDropped) {
  FlightRecorder recorder;
  for (int i = 0; i < 1000; ++i) recorder.note("step", std::to_string(i), at(i));
  const FlightRecord record = recorder.read();
  ASSERT_EQ(record.steps.size(), FlightRecorder::kSteps);
  EXPECT_EQ(record.dropped, 1000 - FlightRecorder::kSteps);
  EXPECT_EQ(record.steps.front().detail, std::to_string(1000 - FlightRecorder::kSteps));
  EXPECT_EQ(record.steps.back().detail, "999");
}

TEST(FlightRecorderTest, TheFirstFailureCountsWithItsState) {
  FlightRecorder recorder;
  recorder.note("probing");
  recorder.fail("no answer");
  recorder.note("reclaiming");
  recorder.fail("leaked: cgroup x");
  const FlightRecord record = recorder.read();
  EXPECT_TRUE(recorder.failed());
  EXPECT_EQ(record.failure, "no answer");
  EXPECT_STREQ(record.failed_in, "probing");
  ASSERT_EQ(record.steps.size(), 4U);
  EXPECT_EQ(record.steps[3].detail, "leaked: cgroup x");
}

TEST(FlightRecorderTest, AFailureBeforeAnyStepOrWithoutAReasonIsStillOne) {
  FlightRecorder recorder;
  recorder.fail("");
  EXPECT_TRUE(recorder.failed());
  EXPECT_STREQ(recorder.read().failed_in, "new");
}

TEST(FlightRecorderTest, LongDetailsAreCut) {
  FlightRecorder recorder;
  recorder.fail(std::string(1 << 20, 'x'));
  EXPECT_EQ(recorder.read().failure.size(), FlightRecorder::kDetailBytes);
  EXPECT_EQ(recorder.read().steps[0].detail.size(), FlightRecorder::kDetailBytes);
}

}  // namespace
}  // namespace granary::pool
