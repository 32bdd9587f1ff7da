// SPDX-License-Identifier: Apache-2.0
#include "agent/own_network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "netplumb/ip_text.h"
#include "netplumb/netns.h"
#include "netplumb/test_netns.h"

namespace granary::agent {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// Every call is made by a thread that is in the namespace, as all of an agent's are.
class OwnNetworkTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!host_.valid()) GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    std::string name = (std::filesystem::temp_directory_path() / "granary-own-network-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    settings_.subnet = *netplumb::parse_prefix("10.213.0.0/24");
    settings_.resolvers = {*netplumb::parse_address("192.168.7.1")};
    ASSERT_EQ(host_.run("sysctl -qw net.ipv4.ip_forward=0"), 0);
    before_ = dump();
  }
  void TearDown() override {
    in_host([&] { network_.reset(); });
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  void in_host(const std::function<void()>& action) const {
    EXPECT_TRUE(netplumb::in_netns(host_.fd(), [&]() -> Status {
      action();
      return ok();
    }));
  }
  [[nodiscard]] std::string dump() const {
    return host_.dump() + host_.output("nft list ruleset; cat /proc/sys/net/ipv4/ip_forward");
  }
  void start(const std::vector<OwnNetwork::Held>& held = {}) {
    in_host([&] {
      auto network = OwnNetwork::start(settings_, folder_, held);
      ASSERT_TRUE(network) << network.error().message();
      network_ = *std::move(network);
    });
  }
  [[nodiscard]] Error refusal(const std::vector<OwnNetwork::Held>& held = {}) const {
    std::optional<Error> error;
    in_host([&] {
      auto network = OwnNetwork::start(settings_, folder_, held);
      if (!network) error = network.error();
    });
    EXPECT_TRUE(error);
    return error.value_or(Error(Errc::kInvalidArgument, "started"));
  }
  OwnNetwork::Wired take(const std::vector<std::string>& allow = {}) {
    OwnNetwork::Wired wired;
    in_host([&] {
      auto taken = network_->take(allow);
      ASSERT_TRUE(taken) << taken.error().message();
      wired = *std::move(taken);
    });
    return wired;
  }
  void release(const std::string& address) {
    in_host([&] {
      const Status released = network_->release(address);
      EXPECT_TRUE(released) << released.error().message();
    });
  }
  [[nodiscard]] std::vector<std::string> differences(const std::set<std::string>& held) const {
    std::vector<std::string> lines;
    in_host([&] { lines = network_->differences(held); });
    return lines;
  }
  // What is only for a moment, because the keeper is at work, goes by.
  void expect_agreement(const std::set<std::string>& held) const {
    std::vector<std::string> lines = differences(held);
    for (int look = 0; look < 1000 && !lines.empty(); ++look) lines = differences(held);
    EXPECT_THAT(lines, IsEmpty());
  }
  [[nodiscard]] std::set<uint32_t> taken_on_disk() const {
    auto store = netplumb::AddressStore::open(folder_ + "/addresses", settings_);
    EXPECT_TRUE(store) << store.error().message();
    return store->taken();
  }

  const netplumb::TestNetns host_{"own-network"};
  std::string folder_;
  std::string before_;
  netplumb::RoutedNetwork settings_;
  std::unique_ptr<OwnNetwork> network_;
};

TEST_F(OwnNetworkTest, AGuestIsToldAllThatItNeeds) {
  start();
  const OwnNetwork::Wired wired = take();
  EXPECT_EQ(wired.address, "10.213.0.2");
  EXPECT_TRUE(wired.tap.valid());
  ASSERT_EQ(wired.network->links_size(), 1);
  EXPECT_EQ(wired.network->addresses(0).prefix_length(), 32U);
  EXPECT_EQ(wired.network->neighbours_size(), 1);
  EXPECT_EQ(wired.network->routes_size(), 2);
  EXPECT_EQ(wired.network->nameservers(0), std::string("\xc0\xa8\x07\x01", 4));
}

TEST_F(OwnNetworkTest, EndsAsItBegan) {
  start();
  EXPECT_NE(dump(), before_);
  in_host([&] { network_->keep_ready(5); });
  const std::string address = take({"tcp:10.0.0.0/8:443"}).address;
  expect_agreement({address});
  release(address);
  release(address);
  expect_agreement({});
  in_host([&] { network_.reset(); });
  EXPECT_EQ(dump(), before_);
  EXPECT_THAT(taken_on_disk(), IsEmpty());
}

TEST_F(OwnNetworkTest, AHostThatForwardedBeforeStillDoesAfter) {
  ASSERT_EQ(host_.run("sysctl -qw net.ipv4.ip_forward=1"), 0);
  before_ = dump();
  start();
  EXPECT_THAT(host_.output("nft list ruleset"), Not(HasSubstr("strangers")));
  in_host([&] { network_.reset(); });
  EXPECT_EQ(dump(), before_);
  ASSERT_EQ(host_.run("sysctl -qw net.ipv4.ip_forward=0"), 0);
  start();
  EXPECT_THAT(host_.output("nft list ruleset; cat /proc/sys/net/ipv4/ip_forward"),
              AllOf(HasSubstr("goto strangers"), HasSubstr("\n1")));
}

TEST_F(OwnNetworkTest, AddressesAreNotGivenTwiceAndUsedInTurn) {
  start();
  const std::string first = take().address;
  const std::string second = take().address;
  release(first);
  const std::string third = take().address;
  EXPECT_THAT((std::vector{first, second, third}), ElementsAre("10.213.0.2", "10.213.0.3", "10.213.0.4"));
}

TEST_F(OwnNetworkTest, TheNextAgentKeepsWhatIsHeldAndNothingElse) {
  start();
  in_host([&] { network_->keep_ready(3); });
  const std::string held = take({"10.0.0.0/8"}).address;
  const std::string lost = take({"10.1.0.0/16"}).address;
  expect_agreement({held, lost});
  // As after a kill: nobody takes anything away.
  in_host([&] { network_.reset(); });
  EXPECT_THAT(host_.output("ls /sys/class/net; nft list table inet granary"),
              AllOf(HasSubstr("granary2"), HasSubstr("granary3")));
  start({{.address = held, .allow = {"10.0.0.0/8"}}});
  EXPECT_THAT(host_.output("ls /sys/class/net; nft list table inet granary"),
              AllOf(HasSubstr("ip daddr 10.0.0.0/8 accept"), Not(HasSubstr("granary3")), Not(HasSubstr("10.1.0.0"))));
  expect_agreement({held});
  EXPECT_THAT(differences({}), ElementsAre("own network: 10.213.0.2 is held by no clone"));
  EXPECT_NE(take().address, lost) << "at once again";
  release(held);
  EXPECT_EQ(taken_on_disk().size(), 1U);
}

TEST_F(OwnNetworkTest, ATableThatSomebodyFlushedIsMadeAnew) {
  start();
  const std::string address = take({"10.0.0.0/8"}).address;
  const std::string other = take({"10.2.0.0/16"}).address;
  ASSERT_EQ(host_.run("nft flush ruleset"), 0);
  expect_agreement({address, other});
  ASSERT_EQ(host_.run("nft flush set inet granary guests"), 0);
  EXPECT_THAT(differences({address, other}),
              testing::Contains(HasSubstr("granary2 has no place in the nf_tables table")));
  release(address);  // whose elements are gone
  expect_agreement({other});
  EXPECT_THAT(host_.output("nft list table inet granary"), HasSubstr("10.2.0.0/16 accept"));
}

TEST_F(OwnNetworkTest, WhatCannotBeIsRefusedWithItsReason) {
  ASSERT_EQ(host_.run("ip link add lan0 type veth peer l0; ip link set lan0 up; ip route add 10.213.0.128/25 dev lan0"),
            0);
  EXPECT_THAT(refusal().message(), AllOf(HasSubstr("network.subnet 10.213.0.0/24"), HasSubstr("10.213.0.128/25")));
  ASSERT_EQ(host_.run("ip link del lan0"), 0);
  EXPECT_THAT(refusal({{.address = "10.7.0.3", .allow = {}}}).message(), HasSubstr("has the address 10.7.0.3"));
  start();
  EXPECT_TRUE(refusal().is(Errc::kAlreadyRunning));
  in_host([&] {
    EXPECT_TRUE(network_->take({"example.org"}).error().is(Errc::kInvalidArgument));
    EXPECT_TRUE(network_->take({"2001:db8::1"}).error().is(Errc::kNotSupported));
  });
  EXPECT_THAT(taken_on_disk(), IsEmpty()) << "a mistake costs no address";
}

TEST_F(OwnNetworkTest, WithoutTheRightItSaysWhichAndLeavesNothing) {
  const std::string said = netplumb::said_without_net_admin([&] { return refusal().message(); });
  EXPECT_THAT(said, AllOf(HasSubstr("nf_tables"), HasSubstr("needs CAP_NET_ADMIN")));
  EXPECT_EQ(dump(), before_);
}

TEST_F(OwnNetworkTest, AFullNetworkSaysSoAndGoesOn) {
  settings_.subnet = *netplumb::parse_prefix("10.213.0.0/29");
  start();
  in_host([&] { network_->keep_ready(3); });
  std::vector<std::string> addresses;
  for (int i = 0; i < 5; ++i) addresses.push_back(take().address);
  in_host([&] {
    const auto more = network_->take({});
    ASSERT_FALSE(more);
    EXPECT_TRUE(more.error().is(Errc::kAddressesExhausted)) << more.error().message();
  });
  release(addresses[2]);
  EXPECT_EQ(take().address, addresses[2]);
}

TEST_F(OwnNetworkTest, ATapThatCannotBeMadeIsAnErrorAndLeavesNothing) {
  start();
  ASSERT_EQ(host_.run("ip link add granary2 type veth peer l0"), 0);
  in_host([&] {
    const auto refused = network_->take({});
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message(), HasSubstr("granary2"));
  });
  ASSERT_EQ(host_.run("ip link del l0"), 0);
  EXPECT_EQ(take().address, "10.213.0.3");
}

TEST_F(OwnNetworkTest, SixtyFourAtOnce) {
  start();
  in_host([&] { network_->keep_ready(16); });
  std::vector<std::future<std::string>> takers;
  for (int i = 0; i < 64; ++i) {
    takers.push_back(std::async(std::launch::async, [&, i] {
      return take(i % 2 == 0 ? std::vector<std::string>() : std::vector<std::string>{"10.0.0.0/8"}).address;
    }));
  }
  std::set<std::string> addresses;
  for (auto& taker : takers) addresses.insert(taker.get());
  EXPECT_EQ(addresses.size(), 64U);
  expect_agreement(addresses);
  std::vector<std::future<void>> releasers;
  for (const std::string& address : addresses) {
    releasers.push_back(std::async(std::launch::async, [&, address] { release(address); }));
  }
  for (auto& releaser : releasers) releaser.get();
  in_host([&] { network_.reset(); });
  EXPECT_EQ(dump(), before_);
}

TEST_F(OwnNetworkTest, FiveHundredCyclesLeaveNothing) {
  start();
  in_host([&] { network_->keep_ready(32); });
  for (int i = 0; i < 500; ++i) {
    const std::string address =
        take(i % 50 == 0 ? std::vector<std::string>{"10.0.0.0/8"} : std::vector<std::string>()).address;
    in_host([&] { network_->give_up(address); });
  }
  expect_agreement({});
  in_host([&] { network_.reset(); });
  EXPECT_EQ(dump(), before_);
  EXPECT_THAT(taken_on_disk(), IsEmpty());
}

TEST_F(OwnNetworkTest, LeftoversGoWhereNoneIsConfigured) {
  in_host([&] { EXPECT_TRUE(OwnNetwork::remove_leftovers(folder_)); });
  start();
  EXPECT_TRUE(std::filesystem::exists(folder_ + "/addresses")) << "or nobody would look after a kill -9";
  (void)take({"10.0.0.0/8"});
  in_host([&] { EXPECT_TRUE(OwnNetwork::remove_leftovers(folder_).error().is(Errc::kAlreadyRunning)); });
  in_host([&] { network_.reset(); });
  EXPECT_NE(dump(), before_) << "somebody holds it";
  in_host([&] { EXPECT_TRUE(OwnNetwork::remove_leftovers(folder_)); });
  EXPECT_EQ(dump(), before_);
}

}  // namespace
}  // namespace granary::agent
