// SPDX-License-Identifier: Apache-2.0
// granary-sim as people start it: what it refuses, and what it writes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/e2e/process.h"

namespace granary::sim {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class SimMainTest : public testing::Test {
 protected:
  SimMainTest() { fs::create_directory(folder_); }
  ~SimMainTest() override { fs::remove_all(folder_); }
  std::string trace(const std::string& text) const {
    std::ofstream(folder_ + "/trace.csv") << text;
    return folder_ + "/trace.csv";
  }
  // What it says; `code` is its exit code.
  static std::string say(std::vector<std::string> arguments, int code) {
    arguments.insert(arguments.begin(), GRANARY_SIM);
    std::string output;
    EXPECT_EQ(e2e::run_command(arguments, &output), code) << output;
    return output;
  }
  std::string folder_ = testing::TempDir() + "sim_main_test." + std::to_string(::getpid());
};

TEST_F(SimMainTest, BadInputIsOneClearLine) {
  const std::pair<std::vector<std::string>, std::string> refusals[] = {
      {{"--rate", "0"}, "give a rate above 0"},
      {{"--rate", "nan"}, "give a rate above 0"},
      {{"--hours", "1e9"}, "hours up to 8784"},
      {{"--pattern", "none"}, "pattern \"none\": give steady"},
      {{"--trace", folder_ + "/none"}, "none: No such file"},
      {{"--trace", folder_}, "cannot be read"},
      {{"--trace", "/dev/zero"}, "longer than 256 bytes"},
      {{"--trace", trace("5\n4\n")}, "trace.csv:2: earlier than the line before; sort"},
      {{"--min", "5", "--size", "3"}, "--min 5 is more than --size 3"},
      {{"--hours", "1", "--plot", folder_ + "/none/plot.svg"}, "plot.svg"},
  };
  for (const auto& [arguments, reason] : refusals) {
    const std::string said = say(arguments, 1);
    EXPECT_THAT(said, HasSubstr(reason));
    EXPECT_THAT(said, HasSubstr("granary-sim: "));
  }
}

TEST_F(SimMainTest, ABudgetBelowOneCloneIsSaid) {
  EXPECT_THAT(say({"--hours", "1", "--memory-budget-mib", "1"}, 0), HasSubstr("smaller than one clone: no policy can"));
}

TEST_F(SimMainTest, ATraceBecomesJsonAndAPlot) {
  const std::string plot = folder_ + "/plot.svg";
  const std::string said =
      say({"--trace", trace("seconds,count\n0\n10,3\n90000\n"), "--size", "4", "--output", "json", "--plot", plot}, 0);
  const auto json = nlohmann::json::parse(said);
  ASSERT_EQ(json["policies"].size(), 7U) << "fixed(0) to fixed(4), autoscaler, adaptive";
  EXPECT_EQ(json["acquires"], 5U);
  for (const auto& policy : json["policies"]) {
    EXPECT_EQ(policy["hits"].get<int>() + policy["misses"].get<int>(), 5) << policy;
    EXPECT_GE(policy["wait_seconds"]["max"], policy["wait_seconds"]["p50"]);
    for (const char* name : {"hit_rate", "idle_byte_seconds", "evictions"})
      EXPECT_TRUE(policy.contains(name)) << policy;
  }
  EXPECT_GT(fs::file_size(plot), 1000U);
}

}  // namespace
}  // namespace granary::sim
