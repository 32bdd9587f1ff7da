// SPDX-License-Identifier: Apache-2.0
// What guests of a routed network can reach, with real taps, routes and nf_tables.
#include "netplumb/routed_network.h"

#include "netplumb/conntrack.h"
#include "netplumb/routed_fixture.h"

namespace granary::netplumb {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const IpAddress kWorld = ip("198.51.100.1");
const IpAddress kPrivate = ip("192.168.7.1");
const IpAddress kMetadata = ip("169.254.169.254");
const IpAddress kHost = ip("198.51.100.2");

std::vector<AllowRule> rules(const std::vector<std::string>& texts) {
  auto parsed = parse_allow_rules(texts);
  EXPECT_TRUE(parsed) << parsed.error().message();
  return *std::move(parsed);
}

// Which of these destinations a guest's datagrams come to, in this order.
class ReachTest : public RoutedNetworkTest {
 protected:
  [[nodiscard]] std::vector<std::string> reached(const TapGuest& guest) const {
    const Listener world(world_.fd(), kPort);
    const Listener host(host_.fd(), kPort);
    const Listener resolver(world_.fd(), kDns);
    guest.send(guest.udp_to(kWorld, "world"));
    guest.send(guest.udp_to(kPrivate, "private"));
    guest.send(guest.udp_to(kMetadata, "metadata"));
    guest.send(guest.udp_to(kHost, "host"));
    guest.send(guest.udp_to(guests_.back()->address(), "guest"));
    Udp last = guest.udp_to(kPrivate, "last");
    last.destination_port = kDns;
    guest.send(last);
    EXPECT_THAT(resolver.until("last"), IsEmpty());
    std::vector<std::string> texts;
    while (const auto got = world.receive()) texts.push_back(got->text);
    if (const auto got = host.receive()) texts.push_back(got->text);
    if (guests_.back()->receive()) texts.push_back("guest");
    return texts;
  }
};

TEST_F(ReachTest, WithoutRulesTheWorldAndTheResolverOnly) {
  make({{2, {}}, {3, {}}});
  EXPECT_THAT(reached(*guests_[0]), ElementsAre("world"));
  EXPECT_EQ(counted(kDeniedSet, 2), 4U);
  EXPECT_EQ(counted(kDeniedSet, 3), 0U);
}

TEST_F(ReachTest, WithRulesWhatTheyNameOnly) {
  make({{2, rules({"udp:192.168.7.0/24:3999-4000"})}, {3, {}}});
  EXPECT_THAT(reached(*guests_[0]), ElementsAre("private"));
}

TEST_F(ReachTest, EverywhereOpensNothingThatIsDenied) {
  make({{2, rules({"0.0.0.0/0"})}, {3, {}}});
  EXPECT_THAT(reached(*guests_[0]), ElementsAre("world"));
}

TEST_F(ReachTest, WhatIsNamedOneByOneIsMeant) {
  make({{2, rules({"0.0.0.0/0", "udp:169.254.169.254:4000", "198.51.100.2", "10.213.0.3", "tcp:192.168.7.1"})},
        {3, {}}});
  EXPECT_THAT(reached(*guests_[0]), ElementsAre("world", "metadata", "host", "guest"));
  EXPECT_THAT(reached(*guests_[1]), ElementsAre("world")) << "the rules are another guest's";
}

TEST_F(ReachTest, RulesComeAndGoWithTheirGuest) {
  make({{2, {}}, {3, {}}});
  const std::string before = host_.output("nft list ruleset");
  ASSERT_TRUE(nft_->run(add_rules_text(2, rules({"192.168.7.1"})), "add rules"));
  EXPECT_THAT(reached(*guests_[0]), ElementsAre("private"));
  ASSERT_TRUE(nft_->run(remove_guests_text(network_, {{2, rules({"192.168.7.1"})}}), "remove the guest"));
  guests_[0]->send(guests_[0]->udp_to(kWorld, "gone"));
  ASSERT_TRUE(nft_->run(add_guests_text(network_, {{2, {}}}), "add it again"));
  EXPECT_THAT(reached(*guests_[0]), ElementsAre("world"));
  EXPECT_EQ(counted(kDeniedSet, 2), 4U);
}

class TrafficTest : public RoutedNetworkTest {};

TEST_F(TrafficTest, IsMasqueradedAndAnswered) {
  make({{2, {}}});
  const Listener world(world_.fd(), kPort);
  guests_[0]->send(guests_[0]->udp_to(kWorld, "hello"));
  const auto got = world.receive(10'000);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->source, "198.51.100.2");
  world.answer(*got, "and back");
  pollfd ready{guests_[0]->tap(), POLLIN, 0};
  ASSERT_EQ(::poll(&ready, 1, 10'000), 1);
  const auto frame = guests_[0]->receive();
  ASSERT_TRUE(frame);
  EXPECT_THAT(std::string(frame->begin(), frame->end()), HasSubstr("and back"));
  EXPECT_TRUE(std::equal(frame->begin(), frame->begin() + 6, mac_of(network_, 2).begin()));
  on_host([&]() -> Status {
    const Traffic traffic = GRANARY_TRY(traffic_of(2));
    EXPECT_EQ(traffic.sent_packets, 1U);
    EXPECT_EQ(traffic.received_packets, 1U);
    EXPECT_TRUE(traffic_of(3).error().is_errno(ENODEV));
    return ok();
  });
}

TEST_F(TrafficTest, NobodyOutsideReachesAGuestAndTheHostDoes) {
  make({{2, {}}});
  const Listener world(world_.fd(), kPort);
  const Listener host(host_.fd(), kPort);
  ASSERT_EQ(world_.run("ip route add 10.213.0.0/24 via 198.51.100.2"), 0);
  world.send(address_of(network_, 2), "from outside");
  host.send(address_of(network_, 2), "from the host");
  pollfd ready{guests_[0]->tap(), POLLIN, 0};
  ASSERT_EQ(::poll(&ready, 1, 10'000), 1);
  const Frame frame = guests_[0]->receive().value_or(Frame());
  EXPECT_THAT(std::string(frame.begin(), frame.end()), HasSubstr("from the host"));
}

TEST_F(TrafficTest, StrangersAreForwardedOnlyWhereTheHostDidSoBefore) {
  const TestNetns lan("lan");
  ASSERT_EQ(host_.run("ip link add lan0 type veth peer l0 netns " + lan.name() +
                      "; ip addr add 172.20.0.1/24 dev lan0; ip link set lan0 up"),
            0);
  ASSERT_EQ(lan.run("ip addr add 172.20.0.9/24 dev l0; ip link set l0 up; ip route add default via 172.20.0.1"), 0);
  before_ = dump();
  const Listener there(lan.fd(), kPort);
  const Listener world(world_.fd(), kPort);
  const Listener host(host_.fd(), kPort);
  for (const bool keeps_out : {false, true}) {
    make({{2, {}}}, keeps_out);
    world.send(ip("172.20.0.9"), "a stranger");
    host.send(ip("172.20.0.9"), "the host");
    EXPECT_EQ(there.until("the host"), keeps_out ? std::vector<std::string>() : std::vector<std::string>{"a stranger"});
    EXPECT_EQ(nft_->list("list chain inet granary " + std::string(kStrangersChain)).has_value(), keeps_out);
    take_away();
  }
  EXPECT_EQ(dump(), before_);
}

TEST_F(TrafficTest, IsLimitedInBothDirections) {
  network_.up_bytes_per_second = 1000;  // with a burst of 256 KiB
  network_.down_bytes_per_second = 1000;
  make({{2, {}}, {3, {}}});
  const Listener world(world_.fd(), kPort);
  const std::string block(1400, 'x');
  for (int i = 0; i < 400; ++i) guests_[0]->send(guests_[0]->udp_to(kWorld, block));
  guests_[1]->send(guests_[1]->udp_to(kWorld, "the other"));
  const size_t came = world.until("the other").size();
  EXPECT_GT(came, 100U);
  EXPECT_LT(came, 200U) << "of 400, 183 in the burst";
  EXPECT_GT(counted(kLimitedSet, 2), 200U);
  EXPECT_EQ(counted(kLimitedSet, 3), 0U);
  guests_[1]->send(guests_[1]->udp_to(kWorld, "more"));
  const auto asked = world.receive(10'000);
  ASSERT_TRUE(asked);
  for (int i = 0; i < 400; ++i) world.answer(*asked, block);
  EXPECT_GT(counted(kLimitedSet, 3), 200U);
}

TEST_F(TrafficTest, AGuestHasSoManyConnectionsAndNoMore) {
  network_.most_connections = 8;
  make({{2, {}}, {3, {}}});
  const Listener world(world_.fd(), kPort);
  for (uint16_t port = 1000; port < 1100; ++port) {
    Udp udp = guests_[0]->udp_to(kWorld, "from " + std::to_string(port));
    udp.source_port = port;
    guests_[0]->send(udp);
  }
  guests_[1]->send(guests_[1]->udp_to(kWorld, "the other"));
  EXPECT_EQ(world.until("the other").size(), 8U);
  EXPECT_EQ(counted(kDeniedSet, 2), 92U);
}

TEST_F(TrafficTest, ConnectionsToTheHostItselfCountToo) {
  network_.most_connections = 8;
  network_.resolvers = {kHost};
  make({{2, {}}, {3, {}}});
  const Listener dns(host_.fd(), kDns);
  const auto ask = [&](const TapGuest& guest, uint16_t port, const std::string& text) {
    Udp udp = guest.udp_to(kHost, text);
    udp.source_port = port;
    udp.destination_port = kDns;
    guest.send(udp);
  };
  for (uint16_t port = 1000; port < 1100; ++port) ask(*guests_[0], port, "question");
  ask(*guests_[1], 1000, "the other");
  EXPECT_EQ(dns.until("the other").size(), 8U);
}

TEST_F(TrafficTest, AResolverMayBeAServiceThatTheHostTranslates) {
  ASSERT_EQ(host_.run("nft \"table ip service { chain to { type nat hook prerouting priority -100; ip daddr 192.168.7.9 udp "
                      "dport 53 dnat to 192.168.7.1:4000; }; }\""),
            0);
  network_.resolvers = {ip("192.168.7.9")};
  make({{2, {}}});
  const Listener world(world_.fd(), kPort);
  Udp question = guests_[0]->udp_to(ip("192.168.7.9"), "question");
  question.destination_port = kDns;
  guests_[0]->send(question);
  guests_[0]->send(guests_[0]->udp_to(kPrivate, "denied"));
  guests_[0]->send(guests_[0]->udp_to(kWorld, "through"));
  EXPECT_THAT(world.until("through"), ElementsAre("question"));
}

// An address goes to somebody else: what was answered before is not, and what was allowed is not, either.
TEST_F(TrafficTest, ForgottenConnectionsAreOpenToNobody) {
  make({{2, rules({"192.168.7.1"})}, {3, {}}});
  const Listener world(world_.fd(), kPort);
  guests_[0]->send(guests_[0]->udp_to(kPrivate, "mine"));
  const auto got = world.receive(10'000);
  ASSERT_TRUE(got);
  world.answer(*got, "answered");
  pollfd ready{guests_[0]->tap(), POLLIN, 0};
  ASSERT_EQ(::poll(&ready, 1, 10'000), 1);
  ASSERT_TRUE(guests_[0]->receive());
  ASSERT_TRUE(nft_->run(remove_guests_text(network_, {{2, rules({"192.168.7.1"})}}), "remove the guest"));
  on_host([&]() -> Status {
    const auto is_two = [&](const IpAddress& address) { return address == address_of(network_, 2); };
    EXPECT_EQ(GRANARY_TRY(forget_connections(is_two)), 1U);
    EXPECT_EQ(GRANARY_TRY(forget_connections(is_two)), 0U);
    return ok();
  });
  ASSERT_TRUE(nft_->run(add_guests_text(network_, {{2, {}}}), "the next one"));
  world.answer(*got, "for the last one");
  guests_[0]->send(guests_[0]->udp_to(kPrivate, "not mine any more"));
  guests_[0]->send(guests_[0]->udp_to(kWorld, "through"));
  EXPECT_THAT(world.until("through"), IsEmpty());
  EXPECT_FALSE(guests_[0]->receive());
}

TEST_F(TrafficTest, NothingIsLeftAndNothingIsInTheWay) {
  for (int round = 0; round < 2; ++round) {
    make({{2, {}}, {3, rules({"10.0.0.0/8", "198.51.100.0/24"})}});
    take_away();
    EXPECT_EQ(dump(), before_);
  }
}

TEST_F(TrafficTest, RoutesInTheWayAreFound) {
  on_host([&]() -> Status {
    EXPECT_FALSE(GRANARY_TRY(find_overlap(network_.subnet)));
    GRANARY_TRY(add_subnet_route(network_.subnet));
    EXPECT_FALSE(GRANARY_TRY(find_overlap(network_.subnet))) << "our own";
    EXPECT_THAT(GRANARY_TRY(find_subnet_routes()), ElementsAre(network_.subnet));
    EXPECT_EQ(to_text(*GRANARY_TRY(find_overlap(*parse_prefix("192.168.0.0/16")))), "192.168.7.0/24");
    EXPECT_TRUE(GRANARY_TRY(remove_subnet_route(network_.subnet)));
    EXPECT_FALSE(GRANARY_TRY(remove_subnet_route(network_.subnet)));
    return ok();
  });
}

TEST_F(TrafficTest, WithoutTheRightItSaysWhich) {
  const std::string said = said_without_net_admin([&] {
    std::string text;
    const Status entered = in_netns(host_.fd(), [&]() -> Status {
      text = make_taps(network_, std::vector<uint32_t>{2}).error().message() + "\n";
      text += add_subnet_route(network_.subnet).error().message() + "\n";
      text += GRANARY_TRY(Nft::open())->run(table_text(network_, {}, false), "make the table").error().message();
      return ok();
    });
    return entered ? text : entered.error().message();
  });
  EXPECT_THAT(said, AllOf(HasSubstr("make tap granary2; needs CAP_NET_ADMIN"),
                          HasSubstr("add the route that keeps 10.213.0.0/24 here; needs CAP_NET_ADMIN"),
                          HasSubstr("make the table: "), HasSubstr("the kernel lacks nf_tables (modprobe), or")));
  EXPECT_EQ(dump(), before_);
}

TEST_F(TrafficTest, WhatNftRefusesSaysWhy) {
  make({{2, {}}});
  const Status refused = nft_->run("add element inet granary nothing { 1 }", "try it");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("try it: nf_tables:"));
  for (const Feature& feature : features()) EXPECT_TRUE(nft_->would_run(feature.probe)) << feature.module;
  EXPECT_EQ(host_.output("nft list tables"), "table inet granary\n") << "probes leave nothing";
}

}  // namespace
}  // namespace granary::netplumb
