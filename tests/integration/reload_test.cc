// SPDX-License-Identifier: Apache-2.0
// A real granaryd takes up new configurations while it runs; only the VMM is a stand-in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/integration/agent_bench.h"

namespace granary::integration {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

class ReloadTest : public testing::Test {
 protected:
  void start() { agent_ = bench_.start_agent(); }
  // As editors do it: another file, renamed to the name.
  void replace(const std::string& text) const {
    std::ofstream(bench_.path("new.yaml")) << text;
    fs::rename(bench_.path("new.yaml"), bench_.path("granary.yaml"));
  }
  [[nodiscard]] std::string yaml(const std::string& pools, const std::string& top = "shutdown_grace: 0s") const {
    return "run_dir: " + bench_.path("run") + "\nstate_dir: " + bench_.path("state") + "\n" + top +
           "\nguest: {kernel: " + bench_.path("kernel") + ", initramfs: \"\"}\npools:\n" + pools;
  }
  [[nodiscard]] json status() const { return json::parse(bench_.ctl({"--output", "json", "status"}).output); }
  bool applied(int generation) const {
    return agent_->wait_for("config-applied pool=- text=\"generation " + std::to_string(generation) + ",");
  }
  [[nodiscard]] std::string acquire(const std::string& owner, const std::string& pool = "") const {
    const Outcome taken = bench_.ctl({"acquire", "--owner", owner, "--pool", pool, "--wait", "30"});
    EXPECT_EQ(taken.status, 0) << taken.errors;
    return taken.output.substr(0, taken.output.find('\n'));
  }
  void expect_alive(const std::string& id) const {
    EXPECT_EQ(bench_.ctl({"exec", "-i", id, "--", "echo"}, "hello").output, "hello");
    EXPECT_THAT(bench_.ctl({"ls"}).output, HasSubstr(id));
    EXPECT_EQ(bench_.ctl({"console", id}).status, 0);
  }
  void expect_clean_end() const {
    EXPECT_EQ(bench_.ctl({"release", "--all"}).status, 0);
    EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
    agent_->signal(SIGTERM);
    EXPECT_EQ(agent_->wait(), 0) << agent_->errors();
    EXPECT_THAT(bench_.left_behind(), testing::IsEmpty());
  }
  AgentBench bench_;
  std::unique_ptr<Process> agent_;
};

const std::string kPoolA = "  - {name: a, memory: 1MiB, size: 2}\n";

TEST_F(ReloadTest, ARenamedFileResizesInPlace) {
  start();
  const std::string id = acquire("me");
  EXPECT_EQ(status()["config"]["generation"], "1");
  const std::string hash = status()["config"]["hash"];
  EXPECT_EQ(hash.size(), 12u);
  EXPECT_THAT(bench_.ctl({"status"}).output, HasSubstr("configuration 1 (" + hash + ")"));
  replace(yaml("  - {name: a, memory: 1MiB, size: 3, max: 5}\n"));
  ASSERT_TRUE(applied(2));
  ASSERT_TRUE(agent_->wait_for("pool-resized pool=a text=\"size 3, max 5\""));
  EXPECT_EQ(status()["pools"][0]["target"], 3);
  EXPECT_NE(status()["config"]["hash"], hash);
  expect_alive(id);
  expect_clean_end();
}

TEST_F(ReloadTest, HangupReadsTheFileAgain) {
  start();
  agent_->signal(SIGHUP);
  ASSERT_TRUE(agent_->wait_for("configuration is unchanged"));
  bench_.configure("size: 1", "shutdown_grace: 0s\nlog_level: warn");
  agent_->signal(SIGHUP);
  ASSERT_TRUE(applied(2));
  EXPECT_EQ(status()["pools"][0]["target"], 1);
  expect_clean_end();
}

TEST_F(ReloadTest, ASwappedConfigMapIsSeen) {
  // What the kubelet makes of a ConfigMap: granary.yaml -> ..data/granary.yaml, ..data -> a folder with a date.
  const auto folder = [&](const std::string& name, const std::string& text) {
    fs::create_directory(bench_.path(name));
    std::ofstream(bench_.path(name + "/granary.yaml")) << text;
  };
  folder("..2026_01", yaml(kPoolA));
  fs::create_symlink("..2026_01", bench_.path("..data"));
  fs::remove(bench_.path("granary.yaml"));
  fs::create_symlink("..data/granary.yaml", bench_.path("granary.yaml"));
  start();
  folder("..2026_02", yaml("  - {name: a, memory: 1MiB, size: 4}\n"));
  fs::create_symlink("..2026_02", bench_.path("..data_tmp"));
  fs::rename(bench_.path("..data_tmp"), bench_.path("..data"));
  fs::remove_all(bench_.path("..2026_01"));
  ASSERT_TRUE(applied(2));
  EXPECT_EQ(status()["pools"][0]["target"], 4);
  expect_clean_end();
}

TEST_F(ReloadTest, AnInvalidFileIsRefusedAsAWhole) {
  start();
  replace(yaml("  - {name: a, memory: 1MiB, size: 1}\n  - {name: b, sise: 3}\n"));
  ASSERT_TRUE(agent_->wait_for("configuration refused, generation 1 stays"));
  const std::string where = bench_.path("granary.yaml") + ":7:15: pools[1]: unknown key ";
  const std::string why = where + "\"sise\"";
  EXPECT_THAT(agent_->errors(), HasSubstr(where + "'sise'"));  // stands between double quotes
  EXPECT_THAT(std::string(status()["config"]["refused"]), HasSubstr(why));
  EXPECT_THAT(bench_.ctl({"status"}).output, HasSubstr("the newest configuration is refused: " + why));
  EXPECT_EQ(status()["pools"][0]["target"], 2);
  EXPECT_EQ(status()["config"]["generation"], "1");
  replace(yaml(kPoolA));
  ASSERT_TRUE(applied(2));
  EXPECT_EQ(status()["config"]["refused"], "");
  expect_clean_end();
}

TEST_F(ReloadTest, WhatIsWrittenInAKeyForgesNoLogLine) {
  start();
  replace(yaml("  - {name: a, memory: 1MiB, \"s\\nx\\\" pool=evil \\xFF\": 3}\n"));
  ASSERT_TRUE(agent_->wait_for("configuration refused, generation 1 stays"));
  EXPECT_THAT(agent_->errors(), HasSubstr("s?x' pool=evil"));
  EXPECT_THAT(std::string(status()["config"]["refused"]), HasSubstr("pool=evil"));
  expect_clean_end();
}

TEST_F(ReloadTest, ANewPoolThatCannotBeMadeChangesNothing) {
  start();
  replace(
      yaml("  - {name: a, memory: 1MiB, size: 1}\n  - {name: b, memory: 1MiB, template: {kernel: /nonexistent}}\n"));
  ASSERT_TRUE(agent_->wait_for("configuration refused, generation 1 stays"));
  EXPECT_THAT(std::string(status()["config"]["refused"]),
              AllOf(HasSubstr(bench_.path("granary.yaml") + ": "), HasSubstr("/nonexistent")));
  EXPECT_EQ(status()["pools"].size(), 1u);
  EXPECT_EQ(status()["pools"][0]["target"], 2);
  expect_clean_end();
}

TEST_F(ReloadTest, WhatNeedsARestartIsRefused) {
  start();
  replace("run_dir: /elsewhere\nstate_dir: " + bench_.path("state") + "\npools: [{name: a}]\n");
  ASSERT_TRUE(agent_->wait_for("configuration refused, generation 1 stays"));
  EXPECT_THAT(agent_->errors(),
              HasSubstr("granary.yaml:1:10: run_dir: cannot change while granaryd runs; restart it, or "
                        "set it back to " +
                        bench_.path("run")));
  expect_clean_end();
}

TEST_F(ReloadTest, APoolIsAddedAndTheOrderCounts) {
  start();
  replace(yaml("  - {name: b, memory: 2MiB, size: 1}\n" + kPoolA));
  ASSERT_TRUE(applied(2));
  const std::string id = acquire("me");
  EXPECT_THAT(bench_.ctl({"ls"}).output, HasSubstr(id));
  EXPECT_EQ(status()["pools"][0]["name"], "b");
  EXPECT_EQ(status()["pools"][0]["running"], 1);
  expect_clean_end();
}

TEST_F(ReloadTest, ARemovedPoolsHeldCloneLivesOn) {
  start();
  replace(yaml(kPoolA + "  - {name: b, memory: 1MiB, size: 2}\n"));
  ASSERT_TRUE(applied(2));
  const std::string id = acquire("me", "b");
  replace(yaml(kPoolA));
  ASSERT_TRUE(applied(3));
  expect_alive(id);
  EXPECT_EQ(status()["pools"].size(), 1u);
  EXPECT_EQ(status()["retired_clones"], 1);
  EXPECT_THAT(bench_.ctl({"acquire", "--pool", "b"}).errors, HasSubstr("pool \"b\"; configured: a"));
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  EXPECT_TRUE(agent_->wait_for("pool-gone pool=b"));
  EXPECT_EQ(status()["retired_clones"], 0);
  expect_clean_end();
}

TEST_F(ReloadTest, AReshapedPoolServesNewClonesAndKeepsTheOld) {
  start();
  const std::string old_key = status()["pools"][0]["template_key"];
  const std::string id = acquire("me");
  replace(yaml("  - {name: a, memory: 2MiB, size: 2}\n"));
  ASSERT_TRUE(applied(2));
  const std::string young = acquire("you");
  EXPECT_NE(young, id);
  EXPECT_EQ(status()["pools"][0]["memory_bytes"], "2097152");
  EXPECT_NE(status()["pools"][0]["template_key"], old_key);
  expect_alive(id);
  expect_alive(young);
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  EXPECT_TRUE(agent_->wait_for("pool-gone pool=a"));
  expect_alive(young);
  expect_clean_end();
}

TEST_F(ReloadTest, ACloneOfARetiredPoolThatDiesIsTold) {
  start();
  const std::string id = acquire("me");
  replace(yaml("  - {name: a, memory: 2MiB, size: 2}\n"));
  ASSERT_TRUE(applied(2));
  const json clones = json::parse(bench_.ctl({"--output", "json", "ls"}).output)["clones"];
  for (const json& clone : clones) {
    if (clone["id"] == id) ::kill(clone["vmm_pid"], SIGKILL);
  }
  EXPECT_TRUE(agent_->wait_for("pool-gone pool=a"));
  EXPECT_THAT(bench_.ctl({"exec", id, "--", "echo"}).errors, HasSubstr("ended: "));
  expect_clean_end();
}

TEST_F(ReloadTest, WhoWaitsGetsACloneOfTheNewShape) {
  bench_.configure("size: 1\n    max: 1");
  start();
  const std::string id = acquire("me");
  const auto waiting = bench_.start_ctl({"acquire", "--owner", "you", "--wait", "60"});
  ASSERT_TRUE(agent_->wait_for("pool-empty pool=a"));
  replace(yaml("  - {name: a, memory: 2MiB, size: 1, max: 1}\n"));
  EXPECT_EQ(waiting->wait(), 0) << waiting->errors();
  expect_alive(id);
  expect_clean_end();
}

TEST_F(ReloadTest, AnAgentThatEndsLeavesClonesOfRetiredPoolsRunning) {
  start();
  const std::string id = acquire("me");
  replace(yaml("  - {name: a, memory: 2MiB, size: 1}\n"));
  ASSERT_TRUE(applied(2));
  agent_->signal(SIGTERM);
  EXPECT_EQ(agent_->wait(), 0) << agent_->errors();
  start();
  EXPECT_EQ(acquire("me"), id);
  expect_alive(id);
  expect_clean_end();
}

}  // namespace
}  // namespace granary::integration
