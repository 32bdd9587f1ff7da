// SPDX-License-Identifier: Apache-2.0
// A network applied to veth pairs in a network namespace of the test's own, against what ip(8) sees of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "vmpool/guest/init/network.h"
#include "vmpool/guest/init/network_sample.h"

namespace granary::guest {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string output_of(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(command.c_str(), "r"), ::pclose);
  std::string text;
  for (int c = 0; pipe && (c = std::fgetc(pipe.get())) != EOF;) text += static_cast<char>(c);
  return text;
}

json ip_json(const std::string& arguments) { return json::parse(output_of("ip -j " + arguments), nullptr, false); }

class NetworkInKernel : public testing::Test {
 protected:
  void SetUp() override {
    if (::unshare(CLONE_NEWNET) != 0) GTEST_SKIP() << "a network namespace of its own needs root";
    if (output_of("ip -V 2>&1").find("iproute2") == std::string::npos) GTEST_SKIP() << "ip(8) is missing: iproute2";
    const std::string made = output_of(
        "(ip link add eth0 type veth peer name host0 && ip link add eth1 type veth peer name host1 && "
        "ip link set lo up && ip link set host0 up && ip link set host1 up) 2>&1");
    if (!made.empty()) GTEST_SKIP() << "no veth here: " << made;
    for (const char* name : {"eth0", "eth1"}) cards.push_back({static_cast<int>(::if_nametoindex(name)), name});
  }
  Status apply(const v1::Network& network) {
    GRANARY_TRY(check_network(network));
    return apply_network(network, cards);
  }
  // Without what the kernel makes by itself, in an order of its own.
  static std::string state() {
    return output_of(
        "ip -o addr | grep -v fe80:; ip route show table all proto static; ip rule; ip neigh show nud permanent;"
        "ip -6 route show table all proto static; ip -6 rule; ip -o link | sed 's/<.*>//; s/state [A-Z]*//'");
  }
  static json find(const json& list, const std::string& key, const std::string& value) {
    for (const json& item : list) {
      if (item.value(key, "") == value) return item;
    }
    ADD_FAILURE() << "no " << key << " " << value << " in " << list;
    return {};
  }
  std::vector<Card> cards;
};

TEST_F(NetworkInKernel, IsWhatTheKernelShows) {
  const Status applied = apply(sample_network());
  ASSERT_TRUE(applied) << applied.error().message();
  const json eth0 = ip_json("addr show eth0")[0];
  EXPECT_EQ(eth0["address"], "02:11:22:33:44:55");
  EXPECT_EQ(eth0["mtu"], 1450);
  EXPECT_THAT(eth0["flags"], testing::Contains("UP"));
  const json v4 = find(eth0["addr_info"], "local", "10.7.0.2");
  EXPECT_EQ(v4["prefixlen"], 24);
  EXPECT_EQ(v4["broadcast"], "10.7.0.255");
  const json v6 = find(eth0["addr_info"], "local", "fd07::2");
  EXPECT_FALSE(v6.contains("tentative")) << v6;
  const json net1 = ip_json("addr show net1")[0];
  EXPECT_EQ(net1["mtu"], 9000);
  EXPECT_EQ(find(net1["addr_info"], "local", "10.8.0.2")["address"], "10.8.0.1");

  const json routes = ip_json("-details route show table main");
  const json fallback = find(routes, "dst", "default");
  EXPECT_EQ(fallback["gateway"], "169.254.1.1");
  EXPECT_EQ(fallback["dev"], "eth0");
  EXPECT_EQ(fallback["metric"], 100);
  EXPECT_EQ(fallback["prefsrc"], "10.7.0.2");
  EXPECT_THAT(fallback["flags"], testing::Contains("onlink"));
  EXPECT_THAT(output_of("ip route show default"), HasSubstr("mtu lock 1400 advmss 1340"));
  EXPECT_EQ(find(routes, "dst", "10.9.0.0/24")["type"], "unreachable");
  EXPECT_EQ(routes.size(), 4U) << "and none that the kernel made: " << routes;
  EXPECT_THAT(output_of("ip -6 route show default"),
              HasSubstr("via fd07::1 dev eth0 proto static metric 1024 mtu 1300"));
  EXPECT_THAT(output_of("ip route show table 1000"), HasSubstr("nexthop via 10.8.0.1 dev net1 weight 3 onlink"));

  EXPECT_THAT(output_of("ip rule"), HasSubstr("512:\tfrom 10.8.0.2 lookup 1000"));
  EXPECT_THAT(output_of("ip -6 rule"), HasSubstr("513:\tnot from all fwmark 0x80/0xff iif net1 lookup main"));
  EXPECT_THAT(output_of("ip neigh show nud permanent"), HasSubstr("169.254.1.1 dev eth0 lladdr 02:ee:ee:ee:ee:ee"));
}

TEST_F(NetworkInKernel, TwiceIsAsOnce) {
  ASSERT_TRUE(apply(sample_network()));
  const std::string once = state();
  EXPECT_THAT(once, HasSubstr("fd07::2/64"));
  cards[1].name = "net1";  // as it is found then
  const Status again = apply(sample_network());
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(state(), once);
}

TEST_F(NetworkInKernel, NamesAreExchanged) {
  v1::Network network;
  network.add_links()->set_name("eth1");
  network.add_links()->set_name("eth0");
  ASSERT_TRUE(apply(network));
  EXPECT_EQ(::if_nametoindex("eth1"), static_cast<unsigned>(cards[0].index));
  EXPECT_EQ(::if_nametoindex("eth0"), static_cast<unsigned>(cards[1].index));
}

TEST_F(NetworkInKernel, SameMetricOnEachLink) {
  v1::Network network = sample_network();
  v1::Route& second = *network.add_routes();
  second = network.routes(4);  // fd07::/64
  second.mutable_next_hops(0)->set_link(1);
  ASSERT_TRUE(apply(network));
  const std::string routes = output_of("ip -6 route show fd07::/64");
  EXPECT_THAT(routes, HasSubstr("dev eth0"));
  EXPECT_THAT(routes, HasSubstr("dev net1"));
}

TEST_F(NetworkInKernel, WhatItRefusesIsNamedWithItsWords) {
  v1::Network network = sample_network();
  network.mutable_routes(0)->mutable_next_hops(0)->set_onlink(false);
  network.mutable_routes(0)->mutable_next_hops(0)->set_gateway(ip("192.0.2.1"));
  const Status refused = apply(network);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().is_errno(ENETUNREACH));
  EXPECT_THAT(refused.error().message(), HasSubstr("network: route 0.0.0.0/0 of table 254"));
  EXPECT_THAT(refused.error().message(), HasSubstr("(Nexthop has invalid gateway)"));
  cards[1].name = "net1";
  const Status later = apply(sample_network());
  EXPECT_TRUE(later) << "a clone may be asked again: " << later.error().message();
}

}  // namespace
}  // namespace granary::guest
