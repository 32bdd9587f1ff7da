// SPDX-License-Identifier: Apache-2.0
#include "agent/flight_log.h"

#include <gtest/gtest.h>

#include "agent/log_text.h"

namespace granary::agent {
namespace {

pool::FlightRecord record(const std::string& clone) {
  return {.clone_id = clone, .pool = "a", .failure = "no answer", .failed_in = "probing", .dropped = 0, .steps = {}};
}

TEST(FlightLogTest, KeepsTheNewestFailures) {
  FlightLog log;
  for (size_t i = 0; i < FlightLog::kFailures + 5; ++i) log.add(record(std::to_string(i)));
  const auto kept = log.failures();
  ASSERT_EQ(kept.size(), FlightLog::kFailures);
  EXPECT_EQ(kept.front().clone_id, std::to_string(FlightLog::kFailures + 4));
  EXPECT_EQ(kept.back().clone_id, "5");
}

TEST(FlightLogTest, TheLogLineIsOneLineWithTimesFromTheFirstStep) {
  pool::FlightRecord failed = record("c");
  const pool::WallTime begin{std::chrono::seconds(100)};
  failed.steps = {{.when = begin, .state = "restoring", .detail = ""},
                  {.when = begin + std::chrono::microseconds(3150), .state = "probing", .detail = ""},
                  {.when = begin + std::chrono::seconds(10), .state = "failed", .detail = "no answer"}};
  failed.failure = "no\nanswer\x1b[31m\" pool=\"b";
  EXPECT_EQ(to_log_line(failed),
            "clone=c pool=a failed_in=probing failure=\"no?answer?[31m' pool='b\" steps=\"restoring+0.0 probing+3.1 "
            "failed+10000.0\"");
}

TEST(LogTextTest, WhateverAGuestSaysStaysOneValue) {
  EXPECT_EQ(log_value("a \"b\"\n\x7f"), "a 'b'??");
  EXPECT_EQ(ascii("a\xff\xc3 b"), "a?? b");
}

}  // namespace
}  // namespace granary::agent
