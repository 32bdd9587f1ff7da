// SPDX-License-Identifier: Apache-2.0
// Clones in the agent's own network, in a real granaryd that lives in a network namespace of the test's; the VMM is a
// stand-in that takes the taps.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>

#include "netplumb/test_netns.h"
#include "tests/integration/agent_bench.h"

namespace granary::integration {
namespace {

using netplumb::TestNetns;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kNetwork = "shutdown_grace: 0s\nnetwork: {subnet: 10.213.0.0/24, resolvers: [192.168.7.1]}";

class OwnNetworkAgent : public testing::Test {
 protected:
  void SetUp() override {
    if (!host_.valid()) GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    // For this thread and so for every process that it starts.
    ASSERT_EQ(::setns(host_.fd(), CLONE_NEWNET), 0);
    ASSERT_EQ(host_.run("sysctl -qw net.ipv4.ip_forward=0"), 0);
    bench_.configure("size: 2", kNetwork);
    before_ = dump();
  }
  void TearDown() override { EXPECT_EQ(::setns(own_->get(), CLONE_NEWNET), 0); }
  [[nodiscard]] std::string dump() const {
    return host_.dump() + host_.output("nft list ruleset; cat /proc/sys/net/ipv4/ip_forward");
  }
  [[nodiscard]] Outcome acquire(const std::string& owner, const std::vector<std::string>& allow = {}) const {
    std::vector<std::string> words = {"acquire", "--owner", owner, "--wait", "20", "--net"};
    for (const std::string& rule : allow) words.insert(words.end(), {"--allow", rule});
    return bench_.ctl(words);
  }
  [[nodiscard]] std::string acquired(const std::string& owner = "me",
                                     const std::vector<std::string>& allow = {}) const {
    const Outcome taken = acquire(owner, allow);
    EXPECT_EQ(taken.status, 0) << taken.errors;
    return taken.output.substr(0, taken.output.find('\n'));
  }
  [[nodiscard]] json clone(const std::string& id) const {
    const json clones = json::parse(bench_.ctl({"--output", "json", "ls"}).output)["clones"];
    for (const json& one : clones) {
      if (one["id"] == id) return one;
    }
    return {};
  }
  void expect_audited() const { EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n"); }
  void expect_released(const std::string& id) const {
    EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  }
  // After an orderly end, without a clone that somebody holds.
  void expect_as_before(std::unique_ptr<Process> agent) const {
    expect_audited();
    agent->signal(SIGTERM);
    EXPECT_EQ(agent->wait(), 0) << agent->errors();
    EXPECT_EQ(dump(), before_);
  }

  const Result<Fd> own_ = open_file("/proc/thread-self/ns/net", O_RDONLY);
  const TestNetns host_{"own-agent"};
  AgentBench bench_;
  std::string before_;
};

TEST_F(OwnNetworkAgent, ACloneHasATapAnAddressAndCounters) {
  auto agent = bench_.start_agent();
  const std::string id = acquired("me", {"tcp:10.0.0.0/8:443"});
  EXPECT_THAT(bench_.ctl({"console", id}).output, HasSubstr("tap 0"));
  const json network = clone(id)["network"];
  EXPECT_EQ(network["address"], "10.213.0.2");
  EXPECT_EQ(network["allow"][0], "tcp:10.0.0.0/8:443");
  EXPECT_EQ(network["sent_packets"], "0");
  EXPECT_THAT(bench_.ctl({"ls"}).output, AllOf(HasSubstr("ADDRESS"), HasSubstr("10.213.0.2")));
  EXPECT_EQ(acquired("me", {"tcp:10.0.0.0/8:443"}), id) << "the same owner";
  EXPECT_THAT(acquire("me").errors,
              HasSubstr("in the agent's network, allowing tcp:10.0.0.0/8:443, not in the agent's"));
  expect_audited();
  ASSERT_EQ(host_.run("nft delete element inet granary denied { granary2 }; nft flush set inet granary guests"), 0);
  EXPECT_THAT(bench_.ctl({"audit"}).output, HasSubstr("granary2 has no place in the nf_tables table"));
  expect_released(id);
  expect_as_before(std::move(agent));
}

TEST_F(OwnNetworkAgent, WhatCannotBeCostsNoClone) {
  auto agent = bench_.start_agent();
  EXPECT_THAT(acquire("a", {"example.org"}).errors, HasSubstr("allow rule \"example.org\""));
  EXPECT_THAT(acquire("b", {"2001:db8::/32"}).errors, HasSubstr("IPv4 only"));
  EXPECT_THAT(bench_.ctl({"acquire", "--allow", "10.0.0.1"}).errors, HasSubstr("give --net, too"));
  EXPECT_THAT(bench_.ctl({"acquire", "--net", "--netns", "/run/netns/x"}).errors,
              HasSubstr("both netns and own_network"));
  const json pool = json::parse(bench_.ctl({"--output", "json", "status"}).output)["pools"][0];
  EXPECT_EQ(pool["reclaimed"], "0");
  expect_as_before(std::move(agent));
}

TEST_F(OwnNetworkAgent, WithoutANetworkNobodyGetsOne) {
  bench_.configure("size: 1");
  auto agent = bench_.start_agent();
  EXPECT_THAT(acquire("me").errors, HasSubstr("set `network` in its configuration"));
  expect_as_before(std::move(agent));
}

TEST_F(OwnNetworkAgent, AKilledVmmsNetworkIsTakenAway) {
  auto agent = bench_.start_agent();
  const std::string id = acquired();
  ASSERT_EQ(::kill(clone(id)["vmm_pid"], SIGKILL), 0);
  EXPECT_TRUE(agent->wait_for("reclaimed pool=a clone=" + id));
  expect_as_before(std::move(agent));
}

TEST_F(OwnNetworkAgent, TheNextAgentKnowsWhoseItIs) {
  auto agent = bench_.start_agent();
  const std::string id = acquired("me", {"10.0.0.0/8"});
  const std::string rules =
      host_.output("nft list chain inet granary exceptions2; nft list chain inet granary allowed2");
  agent->signal(SIGKILL);
  agent->wait();
  agent = bench_.start_agent();
  EXPECT_EQ(acquired("me", {"10.0.0.0/8"}), id);
  EXPECT_EQ(clone(id)["network"]["address"], "10.213.0.2");
  EXPECT_EQ(host_.output("nft list chain inet granary exceptions2; nft list chain inet granary allowed2"), rules);
  const std::string other = acquired("you");
  EXPECT_NE(clone(other)["network"]["address"], "10.213.0.2");
  expect_audited();
  // And one that ends in order leaves what is held alone.
  agent->signal(SIGTERM);
  EXPECT_EQ(agent->wait(), 0);
  EXPECT_EQ(host_.output("nft list chain inet granary exceptions2; nft list chain inet granary allowed2"), rules);
  agent = bench_.start_agent();
  expect_released(id);
  expect_released(other);
  expect_as_before(std::move(agent));
}

TEST_F(OwnNetworkAgent, WhereItIsConfiguredNoLongerItGoes) {
  auto agent = bench_.start_agent();
  const std::string id = acquired();
  agent->signal(SIGKILL);
  agent->wait();
  bench_.configure("size: 2");
  Process refused(bench_.agent_command());
  EXPECT_NE(refused.wait(), 0);
  EXPECT_THAT(refused.errors() + refused.output(), HasSubstr("no `network`, but a clone that is still held"));
  bench_.configure("size: 2", kNetwork);
  agent = bench_.start_agent();
  expect_released(id);
  agent->signal(SIGKILL);
  agent->wait();
  EXPECT_NE(dump(), before_);
  bench_.configure("size: 2");
  agent = bench_.start_agent();
  EXPECT_EQ(dump(), before_);
  expect_as_before(std::move(agent));
}

TEST_F(OwnNetworkAgent, ItCannotChangeWithoutARestart) {
  auto agent = bench_.start_agent();
  bench_.configure("size: 2", "shutdown_grace: 0s\nnetwork: {subnet: 10.214.0.0/24}");
  EXPECT_TRUE(agent->wait_for("cannot change while granaryd runs"));
  expect_as_before(std::move(agent));
}

// Killed at each step, a second agent sets everything right.
class OwnNetworkKill : public OwnNetworkAgent, public testing::WithParamInterface<const char*> {};

TEST_P(OwnNetworkKill, NothingIsLeft) {
  const std::string armed = bench_.path("armed");
  Process agent(bench_.agent_command(), {"GRANARY_FAULT=" + std::string(GetParam()) + ":" + armed});
  agent.end_with({SIGKILL});
  EXPECT_TRUE(agent.wait_for("clone-ready")) << agent.errors();
  const std::string first = acquired("first");
  std::ofstream(armed).close();
  const Outcome taken = acquire("second", {"10.0.0.0/8"});
  if (taken.status == 0) bench_.ctl({"release", taken.output.substr(0, taken.output.find('\n'))});
  bench_.ctl({"release", first});
  agent.signal(SIGTERM);
  agent.wait();
  EXPECT_NE(::access(armed.c_str(), F_OK), 0) << "the step was not reached";
  auto next = bench_.start_agent();
  bench_.ctl({"release", "--all"});
  expect_as_before(std::move(next));
}
INSTANTIATE_TEST_SUITE_P(Each, OwnNetworkKill,
                         testing::Values("addresses.written", "addresses.taken", "taps.made", "taps.routed",
                                         "own-network.made", "own-network.taken", "acquire.handed-over",
                                         "acquire.journalled", "own-network.denied", "taps.doomed", "taps.removed",
                                         "own-network.free", "own-network.forwarding-off"));

TEST_F(OwnNetworkAgent, KilledWhileItStarts) {
  const std::string armed = bench_.path("armed");
  std::ofstream(armed).close();
  Process agent(bench_.agent_command(), {"GRANARY_FAULT=own-network.table:" + armed});
  EXPECT_EQ(agent.wait(), 128 + SIGKILL);
  expect_as_before(bench_.start_agent());
}

}  // namespace
}  // namespace granary::integration
