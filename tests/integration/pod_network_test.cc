// SPDX-License-Identifier: Apache-2.0
// Clones that take the place of a pod's network interfaces, in a real granaryd; the VMM is a stand-in that takes the
// taps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

class PodNetworkTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!pod_.valid()) GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    ASSERT_EQ(
        pod_.run("ip link add eth0 type veth peer p; sysctl -qw net.ipv6.conf.eth0.accept_dad=0; ip link set eth0 up;"
                 "ip addr add 10.20.0.2/24 dev eth0; ip route add default via 10.20.0.1"),
        0);
    configure(true);
    before_ = pod_.dump();
  }
  void configure(bool anti_spoofing) const {
    bench_.configure(std::string("size: 1\n    anti_spoofing: ") + (anti_spoofing ? "true" : "false"));
  }
  [[nodiscard]] Outcome acquire(const std::string& owner, const std::string& netns) const {
    return bench_.ctl({"acquire", "--owner", owner, "--netns", netns, "--wait", "20"});
  }
  [[nodiscard]] std::string acquired() const {
    const Outcome taken = acquire("me", pod_.path());
    EXPECT_EQ(taken.status, 0) << taken.errors;
    return taken.output.substr(0, taken.output.find('\n'));
  }
  [[nodiscard]] bool is_wired() const { return pod_.output("ls /sys/class/net").find("gtap") != std::string::npos; }
  void expect_as_before() const {
    EXPECT_EQ(pod_.dump(), before_);
    EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  }

  const TestNetns pod_{"pod"};
  AgentBench bench_;
  std::string before_;
};

TEST_F(PodNetworkTest, ACloneTakesANamespacesPlaceAndLeavesItAsItWas) {
  const auto agent = bench_.start_agent();
  const std::string id = acquired();
  EXPECT_TRUE(is_wired());
  EXPECT_THAT(bench_.ctl({"console", id}).output, HasSubstr("tap 0"));
  EXPECT_EQ(acquired(), id) << "the same owner";
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  expect_as_before();
}

// For clones that are handed over from then on.
TEST_F(PodNetworkTest, AntiSpoofingComesAndGoesWithAReload) {
  const auto agent = bench_.start_agent();
  const auto filter = [&] { return pod_.output("tc filter show dev $(basename /sys/class/net/gtap*) ingress"); };
  std::string id = acquired();
  EXPECT_THAT(filter(), AllOf(HasSubstr("bpf chain 0 handle 0x1"), HasSubstr("direct-action"), HasSubstr("mirred")));
  configure(false);
  agent->signal(SIGHUP);
  ASSERT_TRUE(agent->wait_for("config-applied pool=- text=\"generation 2,"));
  EXPECT_THAT(filter(), HasSubstr("direct-action"));
  EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  expect_as_before();
  id = acquired();
  EXPECT_THAT(filter(), AllOf(Not(HasSubstr("bpf")), HasSubstr("mirred")));
  EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  expect_as_before();
}

TEST_F(PodNetworkTest, WhatCannotBeWiredCostsNoClone) {
  const auto agent = bench_.start_agent();
  EXPECT_THAT(acquire("a", "/proc/self/ns/net").errors, HasSubstr("hostNetwork"));
  EXPECT_THAT(acquire("b", "/run/netns/granary-none").errors,
              AllOf(HasSubstr("/run/netns/granary-none"), HasSubstr("No such file")));
  EXPECT_THAT(acquire("c", "relative").errors, HasSubstr("give an absolute path"));
  ASSERT_EQ(pod_.run("ip addr flush dev eth0"), 0);
  EXPECT_THAT(acquire("d", pod_.path()).errors, HasSubstr("eth0: it has no address"));
  EXPECT_FALSE(is_wired());
  const json pool = json::parse(bench_.ctl({"--output", "json", "status"}).output)["pools"][0];
  EXPECT_EQ(pool["warm"], 1);
  EXPECT_EQ(pool["reclaimed"], "0");
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
}

TEST_F(PodNetworkTest, ANamespaceIsOneClones) {
  const auto agent = bench_.start_agent();
  const std::string id = acquired();
  EXPECT_THAT(acquire("you", pod_.path()).errors, HasSubstr("a clone has taken its place already"));
  const std::string alias = bench_.path("alias");
  std::ofstream(alias).close();
  ASSERT_EQ(std::system(("mount --bind " + pod_.path() + " " + alias).c_str()), 0);
  EXPECT_THAT(acquire("you", alias).errors, AllOf(HasSubstr("already, as"), HasSubstr(pod_.path())));
  ASSERT_EQ(std::system(("umount " + alias).c_str()), 0);
  EXPECT_TRUE(is_wired()) << "the first one's";
  EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  expect_as_before();
}

TEST_F(PodNetworkTest, AKilledVmmsNetworkIsTakenAway) {
  const auto agent = bench_.start_agent();
  const std::string id = acquired();
  const json clones = json::parse(bench_.ctl({"--output", "json", "ls"}).output)["clones"];
  for (const json& clone : clones) {
    if (clone["id"] == id) {
      ASSERT_EQ(::kill(clone["vmm_pid"], SIGKILL), 0);
    }
  }
  EXPECT_TRUE(agent->wait_for("reclaimed pool=a clone=" + id));
  expect_as_before();
}

TEST_F(PodNetworkTest, ANamespaceThatGoesFirstIsFine) {
  const auto agent = bench_.start_agent();
  std::string id;
  {
    const TestNetns other("other");
    ASSERT_EQ(other.run("ip link add eth0 type veth peer p; ip link set eth0 up; ip addr add 10.21.0.2/24 dev eth0"),
              0);
    const Outcome taken = acquire("me", other.path());
    ASSERT_EQ(taken.status, 0) << taken.errors;
    id = taken.output.substr(0, taken.output.find('\n'));
  }
  EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
}

TEST_F(PodNetworkTest, TheNextAgentKnowsWhoseItIs) {
  auto agent = bench_.start_agent();
  const std::string id = acquired();
  agent->signal(SIGKILL);
  agent->wait();
  agent = bench_.start_agent();
  EXPECT_TRUE(is_wired());
  EXPECT_EQ(acquired(), id);
  EXPECT_THAT(acquire("you", pod_.path()).errors, HasSubstr("a clone has taken its place already"));
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  expect_as_before();
}

class PodNetworkKillTest : public PodNetworkTest, public testing::WithParamInterface<const char*> {};

TEST_P(PodNetworkKillTest, NothingIsLeft) {
  const std::string armed = bench_.path("armed");
  auto agent = bench_.start_agent({"GRANARY_FAULT=" + std::string(GetParam()) + ":" + armed});
  std::ofstream(armed).close();
  const Outcome taken = acquire("me", pod_.path());
  if (taken.status == 0) bench_.ctl({"release", taken.output.substr(0, taken.output.find('\n'))});
  agent->wait();
  EXPECT_NE(::access(armed.c_str(), F_OK), 0) << "the step was not reached";
  agent = bench_.start_agent();
  expect_as_before();
}
INSTANTIATE_TEST_SUITE_P(Each, PodNetworkKillTest,
                         testing::Values("network.journalled", "attach.tap", "attach.tap-redirected", "attach.wired",
                                         "network.wired", "acquire.handed-over", "detach.redirect", "detach.tap",
                                         "network.unwired"));

}  // namespace
}  // namespace granary::integration
