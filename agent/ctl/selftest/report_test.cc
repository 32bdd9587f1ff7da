// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace granary::ctl::selftest {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class StepsTest : public testing::Test {
 protected:
  Step step(const std::string& name, Result<Outcome> outcome = Outcome{}) {
    return {.name = name, .needs = {}, .action = [this, name, outcome] {
              done_.push_back(name);
              return outcome;
            }};
  }
  Step needing(const std::string& name, const std::string& needed) {
    Step made = step(name);
    made.needs = needed;
    return made;
  }
  std::vector<std::string> states() const {
    std::vector<std::string> all;
    for (const StepReport& each : report_.steps)
      all.push_back(each.name + " " + to_string(each.state) + " " + each.reason);
    return all;
  }
  std::vector<std::string> done_;
  bool interrupted_ = false;
  Report report_;
  std::ostringstream progress_;
  Steps steps_{report_, progress_, [this] { return interrupted_; }};
};

TEST_F(StepsTest, PassesFailsAndSkipsByName) {
  steps_.run(step("one", Outcome{.figures = {{"boot", 1.5, "s"}}, .skipped = {}, .rows = {}, .detail = "seen"}));
  steps_.run(step("two", Error(Errc::kVmmFailed, "it broke")));
  steps_.run(step("three", skip("nothing there")));
  EXPECT_THAT(states(),
              ElementsAre("one passed seen", HasSubstr("two failed it broke"), "three skipped nothing there"));
  EXPECT_THAT(report_.steps[0].figures, ElementsAre(testing::Field(&Figure::value, 1.5)));
  EXPECT_THAT(progress_.str(), HasSubstr("selftest: two failed"));
}

TEST_F(StepsTest, AFailureMayHaveFiguresAllTheSame) {
  Outcome some{.figures = {{"boot", 1.5, "s"}}, .skipped = {}, .rows = R"([{"name": "reclaim"}])", .detail = "1 row"};
  some.failed = "one broke; ";
  steps_.run(step("bench", some));
  EXPECT_THAT(states(), ElementsAre("bench failed one broke; 1 row"));
  EXPECT_EQ(report_.steps[0].figures.size(), 1U);
  EXPECT_EQ(to_json(report_)["bench"].size(), 1U);
}

TEST_F(StepsTest, WhatNeedsAnotherGoesOnlyAfterItPassed) {
  steps_.run(step("broken", Error(Errc::kVmmFailed, "it broke")));
  steps_.run(step("absent", skip("nothing there")));
  steps_.run(needing("a", "broken"));
  steps_.run(needing("b", "absent"));
  steps_.run(needing("c", "b"));
  steps_.run(needing("d", "unknown"));
  EXPECT_THAT(done_, ElementsAre("broken", "absent"));
  EXPECT_THAT(states(), ElementsAre(HasSubstr("failed"), "absent skipped nothing there", "a skipped step broken failed",
                                    "b skipped step absent was skipped", "c skipped step b was skipped",
                                    "d skipped unknown was not done"));
}

TEST_F(StepsTest, AnInterruptionSkipsAllButTheCleaning) {
  Step stopped = step("stopped");
  stopped.action = [this]() -> Result<Outcome> {
    interrupted_ = true;
    return Error::from_errno(EINTR, "self-test");
  };
  Step cleaning = step("cleaning");
  cleaning.always = true;
  steps_.run(stopped);
  steps_.run(step("next"));
  steps_.run(cleaning);
  EXPECT_THAT(states(), ElementsAre("stopped skipped interrupted", "next skipped interrupted", "cleaning passed "));
}

Report report_of(std::initializer_list<StepReport> steps) {
  Report report;
  report.steps = steps;
  return report;
}
StepReport ended(const std::string& name, State state, bool required = true) {
  return {.name = name, .required = required, .state = state, .reason = {}, .seconds = 1, .figures = {}};
}

TEST(SelftestReport, ExitCodesSayWhatWasProven) {
  EXPECT_EQ(exit_code(report_of({ended("a", State::kPassed)})), 0);
  EXPECT_EQ(exit_code(report_of({ended("a", State::kPassed), ended("pod", State::kSkipped, false)})), 0);
  EXPECT_EQ(exit_code(report_of({ended("a", State::kPassed), ended("b", State::kSkipped)})), 77);
  EXPECT_EQ(exit_code(report_of({ended("a", State::kSkipped), ended("b", State::kFailed, false)})), 1);
  EXPECT_EQ(verdict(report_of({ended("a", State::kPassed), ended("pod", State::kSkipped, false)})),
            "passed, but skipped: pod");
  EXPECT_EQ(verdict(report_of({ended("a", State::kFailed), ended("b", State::kFailed)})), "failed: a, b");
}

TEST(SelftestReport, JsonHasEverything) {
  Report report = report_of({ended("a", State::kPassed)});
  report.host = {{"cpu", "EPYC"}};
  report.steps[0].figures = {{"boot", 2.5, "s"}};
  report.rows = R"([{"name": "reclaim", "p50": 1.2}])";
  const nlohmann::json json = to_json(report);
  EXPECT_EQ(json["host"]["cpu"], "EPYC");
  EXPECT_EQ(json["steps"][0]["figures"][0]["value"], 2.5);
  EXPECT_EQ(json["bench"][0]["name"], "reclaim");
  EXPECT_EQ(json["exit_code"], 0);
  EXPECT_EQ(json["verdict"], "passed");
}

// A reason may quote a guest, rows are another program's.
TEST(SelftestReport, TextIsTablesWithoutControlCharacters) {
  Report report = report_of({ended("a", State::kFailed)});
  report.steps[0].reason = "guest said \x1b[2J\nfake passed";
  report.rows = R"([{"name": "reclaim", "guest": "tiny", "unit": "ms", "n": 3, "p50": 1.25}, 7, {"p50": []}])";
  std::ostringstream out;
  print(report, out);
  EXPECT_THAT(out.str(), HasSubstr("reclaim    tiny   ms    3  1.25"));
  EXPECT_THAT(out.str(), Not(HasSubstr("\x1b")));
  EXPECT_THAT(out.str(), HasSubstr("?fake passed"));
  EXPECT_THAT(out.str(), HasSubstr("\nfailed: a\n"));
}

TEST(SelftestReport, RowsThatAreNoJsonAreNone) {
  Report report;
  report.rows = "garbage";
  EXPECT_TRUE(to_json(report)["bench"].empty());
}

}  // namespace
}  // namespace granary::ctl::selftest
