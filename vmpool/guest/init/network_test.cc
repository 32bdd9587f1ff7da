// SPDX-License-Identifier: Apache-2.0
// What is asked of the kernel, attribute by attribute; network_kernel_test.cc looks at what a kernel makes of it.
#include "vmpool/guest/init/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <cstring>
#include <map>

#include "vmpool/guest/init/network_sample.h"

namespace granary::guest {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::vector<Card> kCards = {{7, "eth0"}, {5, "eth1"}};

template <class Header>
struct Parsed {
  nlmsghdr message;
  Header header;
  std::map<uint16_t, std::string> attributes;
};

std::map<uint16_t, std::string> attributes_of(std::string_view bytes) {
  std::map<uint16_t, std::string> attributes;
  while (bytes.size() >= sizeof(nlattr)) {
    nlattr attribute;
    std::memcpy(&attribute, bytes.data(), sizeof(attribute));
    EXPECT_GE(attribute.nla_len, sizeof(attribute));
    EXPECT_LE(attribute.nla_len, bytes.size());
    attributes[attribute.nla_type] = bytes.substr(NLA_HDRLEN, attribute.nla_len - NLA_HDRLEN);
    bytes.remove_prefix(std::min<size_t>(NLA_ALIGN(attribute.nla_len), bytes.size()));
  }
  EXPECT_TRUE(bytes.empty());
  return attributes;
}

template <class Header>
Parsed<Header> parse(NetlinkMessage& message) {
  Parsed<Header> parsed;
  const std::string& bytes = message.bytes();
  std::memcpy(&parsed.message, bytes.data(), sizeof(parsed.message));
  std::memcpy(&parsed.header, bytes.data() + NLMSG_HDRLEN, sizeof(parsed.header));
  EXPECT_EQ(parsed.message.nlmsg_len, bytes.size());
  parsed.attributes = attributes_of(std::string_view(bytes).substr(NLMSG_SPACE(sizeof(Header))));
  return parsed;
}

std::string u32(uint32_t value) { return {reinterpret_cast<const char*>(&value), sizeof(value)}; }

class NetworkRequests : public testing::Test {
 protected:
  void build(const v1::Network& network) {
    auto built = network_requests(network, kCards);
    ASSERT_TRUE(built) << built.error().message();
    requests = std::move(*built);
  }
  NetlinkMessage& named(const std::string& what) {
    for (NetlinkMessage& request : requests) {
      if (request.what() == "network: " + what) return request;
    }
    ADD_FAILURE() << "no request " << what;
    return requests.front();
  }
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const NetlinkMessage& request : requests) names.push_back(request.what().substr(9));
    return names;
  }
  std::vector<NetlinkMessage> requests;
};

TEST_F(NetworkRequests, ComeInAnOrderThatTheKernelTakes) {
  build(sample_network());
  EXPECT_THAT(
      names(),
      ElementsAre("card eth0 down", "card eth1 down", "rename card eth1 to granary-card1", "link eth0", "link net1",
                  "address 10.7.0.2 on eth0", "address fd07::2 on eth0", "address 10.8.0.2 on net1", "link eth0 up",
                  "link net1 up", "neighbour 169.254.1.1 on eth0", "route 169.254.1.1/32 of table 254",
                  "route 10.7.0.0/24 of table 254", "route 10.9.0.0/24 of table 254", "route fd07::/64 of table 254",
                  "route 0.0.0.0/0 of table 254", "route ::/0 of table 254", "route 10.10.0.0/16 of table 1000",
                  "rule of priority 512", "rule of priority 513"));
}

TEST_F(NetworkRequests, AddressesBringNoRouteAndNoDuplicateDetection) {
  build(sample_network());
  const auto v4 = parse<ifaddrmsg>(named("address 10.7.0.2 on eth0"));
  EXPECT_EQ(v4.header.ifa_index, 7U);
  EXPECT_EQ(v4.header.ifa_prefixlen, 24);
  EXPECT_EQ(v4.attributes.at(IFA_LOCAL), std::string("\x0a\x07\0\x02", 4));
  EXPECT_EQ(v4.attributes.at(IFA_ADDRESS), v4.attributes.at(IFA_LOCAL));
  EXPECT_EQ(v4.attributes.at(IFA_BROADCAST), std::string("\x0a\x07\0\xff", 4));
  EXPECT_EQ(v4.attributes.at(IFA_FLAGS), u32(IFA_F_NOPREFIXROUTE));
  const auto v6 = parse<ifaddrmsg>(named("address fd07::2 on eth0"));
  EXPECT_EQ(v6.header.ifa_family, AF_INET6);
  EXPECT_EQ(v6.attributes.at(IFA_FLAGS), u32(IFA_F_NOPREFIXROUTE | IFA_F_NODAD));
  const auto peer = parse<ifaddrmsg>(named("address 10.8.0.2 on net1"));
  EXPECT_EQ(peer.attributes.at(IFA_ADDRESS), std::string("\x0a\x08\0\x01", 4));
}

TEST_F(NetworkRequests, RoutesCarryMetricsAndGateways) {
  build(sample_network());
  const auto route = parse<rtmsg>(named("route 0.0.0.0/0 of table 254"));
  EXPECT_EQ(route.header.rtm_flags, RTNH_F_ONLINK);
  EXPECT_FALSE(route.attributes.contains(RTA_DST));
  EXPECT_EQ(route.attributes.at(RTA_OIF), u32(7));
  EXPECT_EQ(route.attributes.at(RTA_PRIORITY), u32(100));
  const auto metrics = attributes_of(route.attributes.at(RTA_METRICS));
  EXPECT_EQ(metrics.at(RTAX_LOCK), u32(1U << RTAX_MTU));
  EXPECT_EQ(metrics.at(RTAX_MTU), u32(1400));
  EXPECT_EQ(metrics.at(RTAX_ADVMSS), u32(1340));
  const auto paths = parse<rtmsg>(named("route 10.10.0.0/16 of table 1000")).attributes;
  EXPECT_EQ(paths.at(RTA_TABLE), u32(1000));
  const std::string& hops = paths.at(RTA_MULTIPATH);
  ASSERT_EQ(hops.size(), 2 * (sizeof(rtnexthop) + 8));
  rtnexthop second;
  std::memcpy(&second, hops.data() + hops.size() / 2, sizeof(second));
  EXPECT_EQ(second.rtnh_ifindex, 5);
  EXPECT_EQ(second.rtnh_hops, 2) << "weight 3";
}

TEST_F(NetworkRequests, AGatewayOfTheOtherFamilyIsVia) {
  v1::Network network = sample_network();
  network.clear_routes();
  v1::Route& route = *network.add_routes();
  route.mutable_destination()->set_address(std::string(4, '\0'));
  route.set_table(RT_TABLE_MAIN);
  v1::NextHop& hop = *route.add_next_hops();
  hop.set_link(0);
  hop.set_weight(1);
  hop.set_gateway(ip("fe80::1"));
  build(network);
  const auto parsed = parse<rtmsg>(named("route 0.0.0.0/0 of table 254"));
  EXPECT_FALSE(parsed.attributes.contains(RTA_GATEWAY));
  EXPECT_EQ(parsed.attributes.at(RTA_VIA), std::string("\x0a\0", 2) + ip("fe80::1"));
}

TEST_F(NetworkRequests, MayExchangeNamesAndTakeThoseOfOtherCards) {
  v1::Network network;
  network.add_links()->set_name("eth1");
  build(network);
  EXPECT_THAT(names(), ElementsAre("card eth0 down", "rename card eth0 to granary-card0", "card eth1 down",
                                   "rename card eth1 to granary-card1", "link eth1", "link eth1 up"));
}

TEST_F(NetworkRequests, MoreLinksThanCardsAreRefused) {
  v1::Network network;
  for (const char* name : {"a", "b", "c"}) network.add_links()->set_name(name);
  const auto built = network_requests(network, kCards);
  ASSERT_FALSE(built);
  EXPECT_THAT(built.error().message(), HasSubstr("3 links, but this guest has 2 cards"));
}

TEST_F(NetworkRequests, NameserversAreAResolvConf) {
  v1::Network network = sample_network();
  EXPECT_EQ(resolv_conf(network), "");
  network.add_nameservers(ip("10.0.0.2"));
  network.add_nameservers(ip("fd07::53"));
  EXPECT_TRUE(check_network(network));
  EXPECT_EQ(resolv_conf(network), "nameserver 10.0.0.2\nnameserver fd07::53\n");
}

struct Bad {
  const char* says;
  void (*spoil)(v1::Network&);
};
class BadNetwork : public testing::TestWithParam<Bad> {};

TEST_P(BadNetwork, IsRefusedNamingTheItem) {
  v1::Network network = sample_network();
  ASSERT_TRUE(check_network(network));
  GetParam().spoil(network);
  const Status checked = check_network(network);
  ASSERT_FALSE(checked);
  EXPECT_TRUE(checked.error().is(Errc::kInvalidArgument));
  EXPECT_THAT(checked.error().message(), HasSubstr(GetParam().says));
}
using N = v1::Network;
INSTANTIATE_TEST_SUITE_P(
    Each, BadNetwork,
    testing::Values(
        Bad{"link 0: name \"\"", [](N& n) { n.mutable_links(0)->clear_name(); }},
        Bad{"link 0: name", [](N& n) { n.mutable_links(0)->set_name("sixteen-letters-"); }},
        Bad{"link 0: name", [](N& n) { n.mutable_links(0)->set_name("eth%d"); }},
        Bad{"link 0: name", [](N& n) { n.mutable_links(0)->set_name(".."); }},
        Bad{"link 1: the name eth0 is taken", [](N& n) { n.mutable_links(1)->set_name("eth0"); }},
        Bad{"link 1: the name lo is taken", [](N& n) { n.mutable_links(1)->set_name("lo"); }},
        Bad{"link 0: mac of 5 bytes", [](N& n) { n.mutable_links(0)->set_mac("12345"); }},
        Bad{"link 0: mac is zero or a group's", [](N& n) { n.mutable_links(0)->set_mac("123456"); }},
        Bad{"link 0: mtu 67", [](N& n) { n.mutable_links(0)->set_mtu(67); }},
        Bad{"link 0: mtu 65536", [](N& n) { n.mutable_links(0)->set_mtu(65536); }},
        Bad{"address 0: link 2", [](N& n) { n.mutable_addresses(0)->set_link(2); }},
        Bad{"address 0: local of 5 bytes", [](N& n) { n.mutable_addresses(0)->set_local("12345"); }},
        Bad{"address 0: prefix length 33", [](N& n) { n.mutable_addresses(0)->set_prefix_length(33); }},
        Bad{"address 0: peer of 16 bytes", [](N& n) { n.mutable_addresses(0)->set_peer(ip("fd07::1")); }},
        Bad{"address 1: broadcast of 4 bytes", [](N& n) { n.mutable_addresses(1)->set_broadcast(ip("10.0.0.255")); }},
        Bad{"address 0: scope 256", [](N& n) { n.mutable_addresses(0)->set_scope(256); }},
        Bad{"neighbour 0: mac of 0 bytes", [](N& n) { n.mutable_neighbours(0)->clear_mac(); }},
        Bad{"route 0: destination of 0 bytes", [](N& n) { n.mutable_routes(0)->clear_destination(); }},
        Bad{"route 0: no next hop", [](N& n) { n.mutable_routes(0)->clear_next_hops(); }},
        Bad{"route 0: weight 0", [](N& n) { n.mutable_routes(0)->mutable_next_hops(0)->set_weight(0); }},
        Bad{"route 0: weight 257", [](N& n) { n.mutable_routes(0)->mutable_next_hops(0)->set_weight(257); }},
        Bad{"route 0: gateway of 3 bytes", [](N& n) { n.mutable_routes(0)->mutable_next_hops(0)->set_gateway("123"); }},
        Bad{"route 0: link 9", [](N& n) { n.mutable_routes(0)->mutable_next_hops(0)->set_link(9); }},
        Bad{"route 0: next hops 65",
            [](N& n) {
              for (int i = 0; i < 64; ++i) n.mutable_routes(0)->add_next_hops()->set_weight(1);
            }},
        Bad{"route 0: source of 16 bytes", [](N& n) { n.mutable_routes(0)->set_source(ip("fd07::2")); }},
        Bad{"route 0: type 300", [](N& n) { n.mutable_routes(0)->set_type(300); }},
        Bad{"rule 0: from of 16 bytes", [](N& n) { n.mutable_rules(0)->mutable_from()->set_address(ip("::1")); }},
        Bad{"rule 0: name \"a b\"", [](N& n) { n.mutable_rules(0)->set_input_link("a b"); }},
        Bad{"rule 0: action 256", [](N& n) { n.mutable_rules(0)->set_action(256); }},
        Bad{"nameserver 0: address of 3 bytes", [](N& n) { n.add_nameservers("123"); }},
        Bad{"4 nameservers, at most 3",
            [](N& n) {
              for (int i = 0; i < 4; ++i) n.add_nameservers("1234");
            }}));

}  // namespace
}  // namespace granary::guest
