// SPDX-License-Identifier: Apache-2.0
// `granaryctl selftest` with a stand-in for the VMM, which runs no guest: what it starts, says and takes down again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/integration/agent_bench.h"

namespace granary::integration {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

class SelftestTest : public testing::Test {
 protected:
  SelftestTest() {
    fs::create_symlink(GRANARYD, bench_.path("libexec/granaryd"));
    fs::create_directory(bench_.path("guest"));
    if (::mkdtemp(tmp_.data()) == nullptr) std::abort();
    for (const char* file : {"guest/vmlinuz", "guest/initramfs.cpio"}) std::ofstream(bench_.path(file)) << "a file";
    misbehave("");
  }
  ~SelftestTest() override {
    std::error_code ignored;
    fs::remove_all(tmp_, ignored);
  }
  void misbehave(const std::string& how) { std::ofstream(bench_.path("kvm")) << how << "\n"; }
  [[nodiscard]] std::unique_ptr<Process> start(const std::vector<std::string>& more = {"--skip-preflight"}) const {
    std::vector<std::string> words = {GRANARYCTL,      "--output",
                                      "json",          "selftest",
                                      "--libexec-dir", bench_.path("libexec"),
                                      "--kvm",         bench_.path("kvm"),
                                      "--guest",       bench_.path("guest"),
                                      "--containerd",  bench_.path("none"),
                                      "--report",      bench_.path("report"),
                                      "--clones",      "3",
                                      "--park",        "1s"};
    words.insert(words.end(), more.begin(), more.end());
    return std::make_unique<Process>(words, std::vector<std::string>{"TMPDIR=" + tmp_});
  }
  // Name to "state reason".
  static std::map<std::string, std::string> steps_of(const Process& selftest) {
    std::map<std::string, std::string> steps;
    const json report = json::parse(selftest.output(), nullptr, false);
    EXPECT_TRUE(report.is_object()) << selftest.output() << selftest.errors();
    if (!report.is_object()) return steps;
    for (const json& step : report["steps"])
      steps[step["name"]] = std::string(step["state"]) + " " + std::string(step["reason"]);
    return steps;
  }
  // Processes of programs in the bench's folder, and what is in the folder for temporary files.
  [[nodiscard]] std::vector<std::string> left() const {
    std::vector<std::string> all;
    for (const auto& file : fs::directory_iterator(tmp_)) all.push_back(file.path().native());
    std::vector<std::string> running = processes();
    all.insert(all.end(), running.begin(), running.end());
    return all;
  }
  [[nodiscard]] std::vector<std::string> processes() const {
    std::vector<std::string> all;
    std::error_code code;
    for (const auto& process : fs::directory_iterator("/proc")) {
      // A jailed VMM's program has no path, but the agent's configuration and the spawner's program have.
      const Result<std::string> words = read_file((process.path() / "cmdline").native());
      if (words && (words->find(bench_.path("")) != std::string::npos || words->find(tmp_) != std::string::npos))
        all.push_back(process.path().native());
    }
    return all;
  }
  // Of any self-test: tests of agents do not run at the same time.
  static std::vector<std::string> cgroups() {
    std::vector<std::string> all;
    std::error_code code;
    for (const auto& controller : fs::directory_iterator("/sys/fs/cgroup", code)) {
      const fs::path slice =
          controller.path().filename() == "granary.slice" ? controller.path() : controller.path() / "granary.slice";
      for (const auto& group : fs::directory_iterator(slice, code))
        if (group.path().filename().native().starts_with("selftest-")) all.push_back(group.path().native());
    }
    return all;
  }
  AgentBench bench_;
  std::string tmp_ = "/tmp/st-XXXXXX";  // short: sockets are below it
};

TEST_F(SelftestTest, AFailedStepIsNamedTheRestSkippedAndNothingLeft) {
  const auto selftest = start();
  EXPECT_EQ(selftest->wait(), 1) << selftest->errors();
  const auto steps = steps_of(*selftest);
  EXPECT_THAT(steps, testing::IsSupersetOf({Pair("agent", "passed "), Pair("park", "skipped step template failed"),
                                            Pair("identity", "skipped step template failed"),
                                            Pair("agent-end", "passed "), Pair("nothing-left", "passed ")}));
  EXPECT_THAT(steps.at("template"), HasSubstr("failed sh"));  // the stand-in has no shell
  EXPECT_THAT(steps.at("bench"), HasSubstr("granary-bench is not there"));
  EXPECT_THAT(steps.at("pod"), HasSubstr("skipped no containerd answers on " + bench_.path("none")));
  EXPECT_THAT(left(), IsEmpty());
  const Result<std::string> text = read_file(bench_.path("report/selftest.txt"));
  EXPECT_THAT(text ? *text : "", HasSubstr("failed: template\n"));
  const Result<std::string> file = read_file(bench_.path("report/selftest.json"));
  EXPECT_EQ(file ? *file : "", selftest->output());
}

TEST_F(SelftestTest, AnAgentThatCannotStartIsAFailureWithItsWords) {
  fs::remove(bench_.path("libexec/granary-fsd"));
  const auto selftest = start();
  EXPECT_EQ(selftest->wait(), 1) << selftest->errors();
  const auto steps = steps_of(*selftest);
  EXPECT_THAT(steps.at("agent"), HasSubstr("granary-fsd"));
  EXPECT_EQ(steps.at("agent-end"), "skipped step agent failed");
  EXPECT_EQ(steps.at("nothing-left"), "passed ");
  EXPECT_THAT(left(), IsEmpty());
}

class SelftestSignalTest : public SelftestTest, public testing::WithParamInterface<int> {};

TEST_P(SelftestSignalTest, AnInterruptionTakesEverythingDown) {
  misbehave("never-ready");  // the template takes for ever
  const auto selftest = start();
  ASSERT_TRUE(selftest->wait_for("selftest: template …")) << selftest->errors();
  selftest->signal(GetParam());
  EXPECT_EQ(selftest->wait(), 128 + GetParam()) << selftest->errors();
  EXPECT_THAT(steps_of(*selftest),
              testing::IsSupersetOf({Pair("template", "skipped interrupted"), Pair("identity", "skipped interrupted"),
                                     Pair("agent-end", "passed "), Pair("nothing-left", "passed ")}));
  EXPECT_THAT(left(), IsEmpty());
  EXPECT_THAT(cgroups(), IsEmpty());
}
INSTANTIATE_TEST_SUITE_P(By, SelftestSignalTest, testing::Values(SIGINT, SIGTERM),
                         [](const auto& of) { return of.param == SIGINT ? "Int" : "Term"; });

TEST_F(SelftestTest, AKilledOneLeavesAFolderThatTheNextRemoves) {
  misbehave("never-ready");
  const auto selftest = start();
  ASSERT_TRUE(selftest->wait_for("selftest: template …")) << selftest->errors();
  selftest->signal(SIGKILL);
  selftest->wait();
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!processes().empty() && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
  EXPECT_THAT(processes(), IsEmpty());
  EXPECT_THAT(cgroups(), IsEmpty());
  EXPECT_THAT(left(), testing::SizeIs(1));
  const auto next = start({});
  EXPECT_EQ(next->wait(), 77) << next->errors();
  EXPECT_THAT(next->errors(), HasSubstr("left by one that was killed"));
  EXPECT_THAT(left(), IsEmpty());
}

TEST_F(SelftestTest, WhatABenchmarkLeavesIsNamedAndEnded) {
  const std::string program = bench_.path("libexec/granary-bench");
  std::ofstream(program) << "#!/bin/sh\nsetsid sleep 1000 >/dev/null 2>&1 &\necho -n $! >" << bench_.path("pid") << "\n"
                         << "echo '[{\"name\": \"reclaim\", \"p50\": 1.5}]'\n";
  fs::permissions(program, fs::perms::owner_all);
  const auto selftest = start();
  EXPECT_EQ(selftest->wait(), 1) << selftest->errors();
  const auto steps = steps_of(*selftest);
  EXPECT_EQ(steps.at("bench"), "passed 1 figures");
  const Result<std::string> pid = read_file(bench_.path("pid"));
  ASSERT_TRUE(pid);
  EXPECT_THAT(steps.at("nothing-left"), HasSubstr("failed left behind: process " + *pid + " sleep"));
  EXPECT_FALSE(fs::exists("/proc/" + *pid));
  EXPECT_EQ(json::parse(selftest->output())["bench"][0]["p50"], 1.5);
  EXPECT_THAT(left(), IsEmpty());
}

TEST_F(SelftestTest, AHostThatCannotRunLinuxIsUnprovenNotFailed) {
  const auto selftest = start({});
  EXPECT_EQ(selftest->wait(), 77) << selftest->errors();
  const auto steps = steps_of(*selftest);
  EXPECT_THAT(steps.at("preflight"), HasSubstr("skipped "));
  for (const char* name : {"agent", "bench", "pod"}) EXPECT_EQ(steps.at(name), "skipped step preflight was skipped");
  for (const char* name : {"template", "agent-end"}) EXPECT_EQ(steps.at(name), "skipped step agent was skipped");
  for (const char* name : {"park", "identity"}) EXPECT_EQ(steps.at(name), "skipped step template was skipped");
  EXPECT_EQ(steps.at("nothing-left"), "passed ");
}

TEST_F(SelftestTest, ABenchmarkRowThatFailsCostsNotTheOthers) {
  const std::string program = bench_.path("libexec/granary-bench");
  std::ofstream(program) << "#!/bin/sh\necho 'granary-bench: churn (tiny) failed: it leaked' >&2\necho table >&2\n"
                         << "echo '[{\"name\": \"reclaim\", \"p50\": 1.5}]'\nexit 1\n";
  fs::permissions(program, fs::perms::owner_all);
  const auto selftest = start();
  EXPECT_EQ(selftest->wait(), 1) << selftest->errors();
  EXPECT_EQ(steps_of(*selftest).at("bench"),
            "failed code 1: granary-bench: churn (tiny) failed: it leaked; else 1 figures");
  EXPECT_EQ(json::parse(selftest->output())["bench"][0]["p50"], 1.5);
}

// Whether it is hardware is the host's to say; what was not seen on hardware must not be labelled so.
TEST_F(SelftestTest, OnlyHardwareIsLabelledHardware) {
  const auto selftest = start({"--hardware", "--skip-preflight"});
  const int code = selftest->wait();
  const json report = json::parse(selftest->output(), nullptr, false);
  ASSERT_TRUE(report.is_object()) << selftest->errors();
  const auto steps = steps_of(*selftest);
  const bool hardware = steps.at("hardware").starts_with("passed");
  EXPECT_EQ(report["host"]["where"] == "hardware", hardware) << report["host"];
  if (hardware) return;
  EXPECT_EQ(code, 77);
  EXPECT_THAT(steps.at("hardware"), HasSubstr("skipped no hardware: "));
  for (const char* name : {"agent", "bench", "pod"}) EXPECT_EQ(steps.at(name), "skipped step hardware was skipped");
  EXPECT_EQ(steps.at("nothing-left"), "passed ");
}

TEST_F(SelftestTest, AMissingGuestIsNamed) {
  fs::remove(bench_.path("guest/vmlinuz"));
  const auto selftest = start();
  EXPECT_EQ(selftest->wait(), 77) << selftest->errors();
  EXPECT_THAT(steps_of(*selftest).at("agent"),
              HasSubstr("no guest: " + bench_.path("guest/vmlinuz") + " is not there"));
}

}  // namespace
}  // namespace granary::integration
