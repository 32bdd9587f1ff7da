// SPDX-License-Identifier: Apache-2.0
// Pods' cgroups and the pool's part in a real granaryd, with real cgroups; the VMM is a stand-in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "tests/integration/agent_bench.h"
#include "tests/integration/test_pod.h"

namespace granary::integration {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint64_t kMiB = 1 << 20;
const std::string kPoolPart = "/granary.slice/pool";

class ChargeTest : public testing::Test {
 protected:
  ChargeTest() {
    if (pod_.path().empty()) skip();
  }
  static void skip() { GTEST_SKIP() << "no cgroups can be made here"; }
  Outcome acquire(const std::string& owner, const std::string& cgroup_parent) {
    return bench_.ctl({"acquire", "--owner", owner, "--cgroup-parent", cgroup_parent});
  }
  json only_clone(const std::string& owner) {
    const json list = json::parse(bench_.ctl({"--output", "json", "ls"}).output);
    for (const json& clone : list["clones"]) {
      if (clone["owner_id"] == owner) return clone;
    }
    ADD_FAILURE() << "no clone of " << owner;
    return {};
  }
  json pool() { return json::parse(bench_.ctl({"--output", "json", "status"}).output)["pools"][0]; }
  static uint64_t number(const json& field) { return std::stoull(field.get<std::string>()); }
  static std::string group_of(const json& clone) { return "granary-" + clone["id"].get<std::string>(); }
  void expect_no_differences() { EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n"); }

  OwnCgroups own_;
  TestPod pod_;
  AgentBench bench_;
};

TEST_F(ChargeTest, AClonesVmmLivesBelowItsPodAndItsResidueIsThePools) {
  const auto agent = bench_.start_agent();
  const Outcome taken = acquire("me", pod_.path());
  ASSERT_EQ(taken.status, 0) << taken.errors;
  const json clone = only_clone("me");
  EXPECT_TRUE(pod_.is_in(clone["vmm_pid"], group_of(clone)));
  const uint64_t residue = number(clone["residue_bytes"]);
  EXPECT_GT(residue, 0U);
  // Less than the residue: the kernel charges ahead, in batches, and this stand-in is small.
  EXPECT_GT(pod_.memory_bytes(kPoolPart + "/clone-" + clone["id"].get<std::string>()), 0U);
  EXPECT_EQ(number(pool()["residue_bytes"]), residue);
  EXPECT_GE(number(pool()["other_bytes"]), residue);
  EXPECT_THAT(bench_.ctl({"status"}).output, HasSubstr("stay charged to the pool"));
  EXPECT_EQ(bench_.ctl({"exec", "-i", clone["id"], "--", "echo"}, "hello").output, "hello");
  expect_no_differences();
  EXPECT_EQ(acquire("me", pod_.path()).output, taken.output);
  EXPECT_THAT(acquire("me", "").errors, AllOf(HasSubstr("in cgroup " + pod_.path()), HasSubstr("the pool's part")));
  EXPECT_EQ(bench_.ctl({"release", clone["id"]}).status, 0);
  EXPECT_THAT(pod_.groups(), IsEmpty());
  expect_no_differences();
}

TEST_F(ChargeTest, AnAgentThatComesBackKnowsTheGroups) {
  auto agent = bench_.start_agent();
  ASSERT_EQ(acquire("me", pod_.path()).status, 0);
  const json before = only_clone("me");
  agent->signal(SIGKILL);
  agent->wait();
  agent = bench_.start_agent();
  const json after = only_clone("me");
  EXPECT_EQ(after["id"], before["id"]);
  EXPECT_EQ(after["residue_bytes"], before["residue_bytes"]);
  EXPECT_EQ(pool()["residue_bytes"], before["residue_bytes"]);
  EXPECT_TRUE(pod_.is_in(after["vmm_pid"], group_of(after)));
  expect_no_differences();
  EXPECT_EQ(acquire("me", pod_.path()).status, 0) << "the same owner, the same cgroup";
  EXPECT_EQ(bench_.ctl({"release", after["id"]}).status, 0);
  EXPECT_THAT(pod_.groups(), IsEmpty());
  expect_no_differences();
}

TEST_F(ChargeTest, ACloneThatEndsByItselfLeavesNoGroup) {
  const auto agent = bench_.start_agent();
  ASSERT_EQ(acquire("me", pod_.path()).status, 0);
  const json clone = only_clone("me");
  expect_no_differences();
  ::kill(clone["vmm_pid"].get<int>(), SIGKILL);
  EXPECT_TRUE(agent->wait_for("reclaimed pool=a clone=" + clone["id"].get<std::string>())) << agent->errors();
  EXPECT_THAT(pod_.groups(), IsEmpty());
  expect_no_differences();
}

TEST_F(ChargeTest, HostileAndMissingGroupsCostNoClone) {
  const auto agent = bench_.start_agent();
  for (const std::string hostile : {"kubepods", "/", "/../etc", "/a/../../b", "/granary.slice/pool", "a.slice:b"}) {
    const Outcome refused = acquire("me", hostile);
    EXPECT_EQ(refused.status, 125);
    EXPECT_THAT(refused.errors, AllOf(HasSubstr("give the pod's cgroup"), HasSubstr("invalid argument")));
  }
  for (const std::string& missing : {pod_.path() + "/none", std::string("kubepods-none-pod1.slice:cri-containerd:x")}) {
    EXPECT_THAT(acquire("me", missing).errors, AllOf(HasSubstr("cgroup_parent"), HasSubstr("No such file")));
  }
  EXPECT_THAT(acquire("me", pod_.path() + "/cgroup.procs").errors, HasSubstr("give one that is there"));
  ASSERT_TRUE(pod_.make_read_only());
  const Outcome refused = acquire("me", pod_.path());
  pod_.make_writable();
  EXPECT_THAT(refused.errors, AllOf(HasSubstr(pod_.path()), HasSubstr("mount the host's /sys/fs/cgroup writable")));
  EXPECT_EQ(pool()["reclaimed"], "0");
  expect_no_differences();
}

TEST_F(ChargeTest, AnExactPoolRestoresInThePodsGroup) {
  bench_.configure("charge: exact");
  Process agent(bench_.agent_command());
  agent.end_with({SIGTERM, SIGINT});
  ASSERT_TRUE(agent.wait_for("ready version=")) << agent.errors();
  const Outcome taken = acquire("me", pod_.path());
  ASSERT_EQ(taken.status, 0) << taken.errors;
  const json clone = only_clone("me");
  EXPECT_FALSE(clone["warm"]);
  EXPECT_EQ(clone["residue_bytes"], "0");
  EXPECT_TRUE(pod_.is_in(clone["vmm_pid"], group_of(clone)));
  EXPECT_GT(pod_.memory_bytes(), 0U);
  expect_no_differences();
  EXPECT_EQ(bench_.ctl({"release", clone["id"]}).status, 0);
  EXPECT_THAT(pod_.groups(), IsEmpty());
  expect_no_differences();
}

TEST_F(ChargeTest, TheNodesBudgetBoundsThePoolsPart) {
  const auto limit_becomes = [&](uint64_t bytes) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (pod_.memory_limit(kPoolPart) != bytes && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
    return pod_.memory_limit(kPoolPart);
  };
  bench_.configure("size: 2", "shutdown_grace: 0s\nmemory_budget: 64MiB");
  const auto agent = bench_.start_agent();
  EXPECT_EQ(limit_becomes(136 * kMiB), 136 * kMiB) << "an eighth more, and 64 MiB";
  const Outcome held = acquire("me", "");
  ASSERT_EQ(held.status, 0) << held.errors;
  EXPECT_EQ(pod_.memory_limit(kPoolPart), 141 * kMiB)
      << "who holds one without a cgroup may use its memory: 1 MiB and 4";
  ASSERT_EQ(acquire("you", pod_.path()).status, 0);
  EXPECT_EQ(pod_.memory_limit(kPoolPart), 141 * kMiB) << "that one's is the pod's";
  bench_.configure("size: 2", "shutdown_grace: 0s\nmemory_budget: 128MiB");
  EXPECT_EQ(limit_becomes(213 * kMiB), 213 * kMiB) << "128 + 16 + 64 + 5";
  EXPECT_EQ(bench_.ctl({"release", held.output.substr(0, 36)}).status, 0);
  EXPECT_EQ(limit_becomes(208 * kMiB), 208 * kMiB);
  bench_.configure("size: 2");
  EXPECT_EQ(limit_becomes(0), 0U);
}

}  // namespace
}  // namespace granary::integration
