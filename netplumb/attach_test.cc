// SPDX-License-Identifier: Apache-2.0
// attach() in network namespaces that are configured as CNI plugins configure them.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <linux/rtnetlink.h>

#include <filesystem>

#include "netplumb/attach_fixture.h"

namespace granary::netplumb {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

IpAddress ip(const std::string& text) {
  IpAddress address{.v6 = text.find(':') != std::string::npos, .bytes = {}};
  EXPECT_EQ(::inet_pton(address.v6 ? AF_INET6 : AF_INET, text.c_str(), address.bytes.data()), 1) << text;
  return address;
}
Prefix net(const std::string& text) {
  const size_t slash = text.find('/');
  return {.address = ip(text.substr(0, slash)), .length = static_cast<uint8_t>(std::stoi(text.substr(slash + 1)))};
}
auto is_address(uint32_t link, const std::string& prefix) {
  return AllOf(Field(&Address::link, link), Field(&Address::local, net(prefix).address),
               Field(&Address::prefix_length, net(prefix).length));
}
auto is_route(const std::string& to, const NextHop& hop) {
  return AllOf(Field(&Route::destination, net(to)), Field(&Route::next_hops, ElementsAre(hop)));
}
NextHop dev(uint32_t link) { return {.link = link, .gateway = std::nullopt}; }
NextHop via(uint32_t link, const std::string& gateway, bool onlink = false) {
  return {.link = link, .gateway = ip(gateway), .onlink = onlink};
}

TEST_F(AttachTest, BridgeAndHostLocal) {
  configure("ip addr add 10.88.0.5/16 brd 10.88.255.255 dev eth0; ip route add default via 10.88.0.1",
            "ip link add cni0 type bridge; ip link set host0 master cni0; ip addr add 10.88.0.1/16 dev cni0; ip link "
            "set cni0 up");
  const std::string before = pod_.dump();
  const NetworkConfig config = attached();
  ASSERT_EQ(config.links.size(), 1U);
  EXPECT_EQ(config.links[0].name, "eth0");
  EXPECT_EQ(config.links[0].mac, (MacAddress{2, 0, 0, 0, 0, 5}));
  EXPECT_EQ(config.links[0].mtu, 1500U);
  EXPECT_THAT(config.addresses,
              Contains(AllOf(is_address(0, "10.88.0.5/16"), Field(&Address::broadcast, ip("10.88.255.255")))));
  EXPECT_THAT(config.routes, Contains(is_route("0.0.0.0/0", via(0, "10.88.0.1"))));
  EXPECT_THAT(config.routes, Contains(AllOf(is_route("10.88.0.0/16", dev(0)), Field(&Route::source, ip("10.88.0.5")))));
  EXPECT_THAT(config.rules, IsEmpty());
  expect_guest_answers({"10.88.0.5"}, "10.88.0.5");
  EXPECT_TRUE(detach(pod_.fd(), pod_.path()));
  EXPECT_EQ(pod_.dump(), before);
  EXPECT_EQ(host_.run("ping -q -c 1 -W 5 10.88.0.5 >/dev/null"), 0) << "the namespace answers again by itself";
}

TEST_F(AttachTest, PointToPoint) {
  configure(
      "ip addr add 10.1.1.7/24 dev eth0; ip route del 10.1.1.0/24 dev eth0;"
      "ip route add 10.1.1.1 dev eth0 src 10.1.1.7; ip route add 10.1.1.0/24 via 10.1.1.1 src 10.1.1.7; ip route add "
      "default via 10.1.1.1",
      "ip addr add 10.1.1.1/32 dev host0; ip route add 10.1.1.7/32 dev host0");
  const NetworkConfig config = attached();
  EXPECT_THAT(config.routes, Contains(AllOf(is_route("10.1.1.1/32", dev(0)), Field(&Route::scope, RT_SCOPE_LINK))));
  EXPECT_THAT(config.routes, Contains(is_route("10.1.1.0/24", via(0, "10.1.1.1"))));
  EXPECT_THAT(config.routes, Not(Contains(is_route("10.1.1.0/24", dev(0))))) << "CNI took it away";
  expect_guest_answers({"10.1.1.7"}, "10.1.1.7");
}

TEST_F(AttachTest, Calico) {
  configure(
      "ip addr add 192.168.7.9/32 dev eth0; ip route add 169.254.1.1 dev eth0 scope link; ip route add default via "
      "169.254.1.1;"
      "ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent",
      "ip addr add 192.168.7.1/32 dev host0; ip route add 192.168.7.9/32 dev host0");
  const NetworkConfig config = attached();
  EXPECT_THAT(config.addresses, Contains(is_address(0, "192.168.7.9/32")));
  EXPECT_THAT(config.routes, Contains(AllOf(is_route("169.254.1.1/32", dev(0)), Field(&Route::scope, RT_SCOPE_LINK))));
  EXPECT_THAT(config.routes, Contains(is_route("0.0.0.0/0", via(0, "169.254.1.1"))));
  EXPECT_THAT(
      config.neighbours,
      ElementsAre(Neighbour{.link = 0, .address = ip("169.254.1.1"), .mac = {0xee, 0xee, 0xee, 0xee, 0xee, 0xee}}));
  expect_guest_answers({"192.168.7.9"}, "192.168.7.9");
}

TEST_F(AttachTest, OnLinkGateway) {
  configure("ip addr add 192.168.7.9/32 dev eth0; ip route add default via 10.9.9.9 dev eth0 onlink metric 77");
  EXPECT_THAT(attached().routes,
              Contains(AllOf(is_route("0.0.0.0/0", via(0, "10.9.9.9", true)), Field(&Route::metric, 77U))));
}

TEST_F(AttachTest, Cilium) {
  configure(
      "ip addr add 10.0.1.50/32 dev eth0; ip route add 10.0.1.1 dev eth0 scope link; ip route add default via 10.0.1.1 "
      "mtu 1450;"
      "ip route add 10.7.0.0/16 via 10.0.1.1 mtu lock 1400 advmss 1360");
  const NetworkConfig config = attached();
  EXPECT_THAT(config.routes, Contains(AllOf(is_route("0.0.0.0/0", via(0, "10.0.1.1")), Field(&Route::mtu, 1450U),
                                            Field(&Route::mtu_locked, false))));
  EXPECT_THAT(config.routes, Contains(AllOf(is_route("10.7.0.0/16", via(0, "10.0.1.1")), Field(&Route::mtu, 1400U),
                                            Field(&Route::mtu_locked, true), Field(&Route::advertised_mss, 1360U))));
}

TEST_F(AttachTest, AwsPolicyRulesAndSecondaryAddresses) {
  configure(
      "ip addr add 10.2.0.4/24 dev eth0; ip addr add 10.2.0.5/24 dev eth0; ip route add default via 10.2.0.1;"
      "ip route add default via 10.2.0.1 table 7; ip rule add from 10.2.0.5 table 7 priority 512;"
      "ip rule add not to 10.2.0.0/16 fwmark 0x40/0xff iif lo table 7 priority 600; ip -6 rule add from fd00::/8 "
      "unreachable priority 9");
  const NetworkConfig config = attached();
  EXPECT_THAT(config.addresses, AllOf(Contains(is_address(0, "10.2.0.4/24")), Contains(is_address(0, "10.2.0.5/24"))));
  EXPECT_THAT(config.routes, Contains(AllOf(is_route("0.0.0.0/0", via(0, "10.2.0.1")), Field(&Route::table, 7U))));
  ASSERT_EQ(config.rules.size(), 3U);
  EXPECT_THAT(config.rules, Contains(AllOf(Field(&Rule::priority, 512U), Field(&Rule::from, net("10.2.0.5/32")),
                                           Field(&Rule::table, 7U))));
  EXPECT_THAT(config.rules, Contains(AllOf(Field(&Rule::priority, 600U), Field(&Rule::to, net("10.2.0.0/16")),
                                           Field(&Rule::invert, true), Field(&Rule::mark, 0x40U),
                                           Field(&Rule::mark_mask, 0xffU), Field(&Rule::input_link, "lo"))));
  EXPECT_THAT(config.rules, Contains(AllOf(Field(&Rule::v6, true), Field(&Rule::action, RTN_UNREACHABLE))));
}

TEST_F(AttachTest, DualStack) {
  configure(
      "ip addr add 10.3.0.2/24 dev eth0; ip addr add fd03::2/64 dev eth0 nodad; ip route add default via 10.3.0.1; ip "
      "-6 route add default via fd03::1",
      "ip addr add 10.3.0.1/24 dev host0; ip addr add fd03::1/64 dev host0 nodad");
  const NetworkConfig config = attached();
  EXPECT_THAT(config.addresses, AllOf(Contains(is_address(0, "10.3.0.2/24")), Contains(is_address(0, "fd03::2/64")),
                                      Contains(is_address(0, "fe80::ff:fe00:5/64"))));
  EXPECT_THAT(config.routes, AllOf(Contains(is_route("0.0.0.0/0", via(0, "10.3.0.1"))),
                                   Contains(is_route("::/0", via(0, "fd03::1")))));
  expect_guest_answers({"10.3.0.2", "fd03::2"}, "10.3.0.2 fd03::2");
}

TEST_F(AttachTest, SixOnlyWithALinkLocalGateway) {
  configure("ip addr add fd04::2/128 dev eth0 nodad; ip -6 route add default via fe80::1 dev eth0",
            "ip addr add fd04::1/64 dev host0 nodad");
  const NetworkConfig config = attached();
  EXPECT_THAT(config.routes, Contains(is_route("::/0", via(0, "fe80::1"))));
  EXPECT_THAT(config.addresses, Not(Contains(Field(&Address::local, Field(&IpAddress::v6, false)))));
  expect_guest_answers({"fd04::2"}, "fd04::2");
}

TEST_F(AttachTest, JumboFrames) {
  configure("ip link set eth0 mtu 9000; ip addr add 10.5.0.2/24 dev eth0",
            "ip link set host0 mtu 9000; ip addr add 10.5.0.1/24 dev host0");
  EXPECT_EQ(attached().links[0].mtu, 9000U);
  EXPECT_THAT(pod_.output("cat /sys/class/net/gtap*/mtu"), "9000\n");
  expect_guest_answers({"10.5.0.2"}, "\"-s 8900 10.5.0.2\"");
}

TEST_F(AttachTest, TheTapHasNoAddressOfItsOwn) {
  configure("ip addr add 10.5.0.2/24 dev eth0");
  (void)attached();
  EXPECT_EQ(pod_.output("ip -o addr | grep -c gtap || true"), "0\n");
}

TEST_F(AttachTest, MultipathAndUnreachable) {
  configure(
      "ip addr add 10.6.0.2/24 dev eth0; ip route add 10.60.0.0/16 nexthop via 10.6.0.1 weight 2 nexthop via 10.6.0.3;"
      "ip route add unreachable 10.61.0.0/16 metric 5");
  const NetworkConfig config = attached();
  NextHop first = via(0, "10.6.0.1");
  first.weight = 2;
  EXPECT_THAT(config.routes, Contains(AllOf(Field(&Route::destination, net("10.60.0.0/16")),
                                            Field(&Route::next_hops, ElementsAre(first, via(0, "10.6.0.3"))))));
  EXPECT_THAT(config.routes,
              Contains(AllOf(Field(&Route::destination, net("10.61.0.0/16")), Field(&Route::type, RTN_UNREACHABLE))));
}

TEST_F(AttachTest, OfAMultipathRouteTheWaysThatAreUpAreKept) {
  configure(
      "ip addr add 10.6.0.2/24 dev eth0; ip link add net1 type veth peer other; ip addr add 10.8.0.2/24 dev net1; ip "
      "link set net1 up; ip link set other up; ip route add default nexthop via 10.8.0.1 nexthop via 10.6.0.1; ip link "
      "set net1 down; ip link set other down");
  ASSERT_THAT(pod_.output("ip route"), HasSubstr("via 10.8.0.1 dev net1")) << "the kernel keeps the dead one";
  EXPECT_THAT(attached().routes, Contains(is_route("0.0.0.0/0", via(0, "10.6.0.1"))));
}

TEST_F(AttachTest, SeveralInterfaces) {
  configure(
      "ip addr add 10.7.0.2/24 dev eth0; ip link add net1 type veth peer other; ip addr add 10.8.0.2/24 dev net1; ip "
      "link set net1 up");
  const NetworkConfig config = attached();
  ASSERT_EQ(config.links.size(), 2U);
  EXPECT_THAT(config.addresses, AllOf(Contains(is_address(0, "10.7.0.2/24")), Contains(is_address(1, "10.8.0.2/24"))));
  ASSERT_EQ(pod_.run("ip link add net2 type veth peer another; ip addr add 10.9.0.2/24 dev net2; ip link set net2 up"),
            0);
  EXPECT_TRUE(detach(pod_.fd(), pod_.path()));
  const Error refused = refusal();
  EXPECT_TRUE(refused.is(Errc::kNotSupported));
  EXPECT_THAT(refused.message(), HasSubstr("3 wired interfaces (eth0, net1, net2), but a clone has 2 network cards"));
}

TEST_F(AttachTest, OnlyLoopback) {
  ASSERT_EQ(pod_.run("ip link del eth0"), 0);
  EXPECT_EQ(attached(), NetworkConfig{});
  EXPECT_TRUE(detach(pod_.fd(), pod_.path()));
}

TEST_F(AttachTest, Macvlan) {
  ASSERT_EQ(host_.run("ip link add up0 type veth peer wire; ip link set up0 up; ip link set wire up; ip addr add "
                      "10.10.0.1/24 dev wire;"
                      "ip link add link up0 netns " +
                      pod_.name() + " name mac0 address 02:00:00:00:00:05 type macvlan mode bridge"),
            0);
  configure("ip link del eth0; ip link set mac0 up; ip addr add 10.10.0.5/24 dev mac0");
  EXPECT_EQ(attached().links[0].name, "mac0");
  expect_guest_answers({"10.10.0.5"}, "10.10.0.5");
}

// Runs a real CNI plugin in the host's namespace for eth0 of the pod's.
class CniTest : public AttachTest {
 protected:
  void SetUp() override {
    AttachTest::SetUp();
    if (IsSkipped()) return;
    if (::access("/usr/lib/cni/ptp", X_OK) != 0)
      GTEST_SKIP() << "no CNI plugins here (Debian package containernetworking-plugins)";
    ASSERT_EQ(pod_.run("ip link del eth0; sysctl -qw net.ipv6.conf.default.accept_dad=0"), 0);
    ASSERT_EQ(host_.run("sysctl -qw net.ipv6.conf.default.accept_dad=0"), 0);
  }
  void TearDown() override { std::filesystem::remove_all(store_); }
  [[nodiscard]] int cni(const std::string& command, const std::string& type, const std::string& options = "") const {
    const std::string config = R"({"cniVersion": "0.4.0", "name": "n", "type": ")" + type + R"(", )" + options +
                               R"("ipam": {"type": "host-local", "dataDir": ")" + store_ +
                               R"(", "ranges": [[{"subnet": "10.18.0.0/24"}], [{"subnet": "fd18::/64"}]],)"
                               R"( "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}})";
    return host_.run("echo " + quoted(config) + " | CNI_COMMAND=" + command + " CNI_CONTAINERID=c1 CNI_NETNS=" +
                     pod_.path() + " CNI_IFNAME=eth0 CNI_PATH=/usr/lib/cni /usr/lib/cni/" + type + " >/dev/null");
  }
  static std::string quoted(const std::string& text) {  // inside the single quotes of TestNetns::run
    std::string out = "\"";
    for (const char c : text) out += c == '"' ? std::string("\\\"") : std::string(1, c);
    return out + "\"";
  }
  void expect_a_guest_serves(const std::string& type, const std::string& options = "") {
    ASSERT_EQ(cni("ADD", type, options), 0);
    const std::string before = pod_.dump();
    const NetworkConfig config = attached();
    EXPECT_THAT(config.addresses, AllOf(Contains(Field(&Address::local, ip("10.18.0.2"))),
                                        Contains(Field(&Address::local, ip("fd18::2")))));
    EXPECT_THAT(config.routes, AllOf(Contains(is_route("0.0.0.0/0", via(0, "10.18.0.1"))),
                                     Contains(is_route("::/0", via(0, "fd18::1")))));
    const std::string mac = pod_.output("cat /sys/class/net/eth0/address");
    expect_guest_answers({"10.18.0.2", "fd18::2"}, "10.18.0.2 fd18::2", mac.substr(0, 17));
    EXPECT_TRUE(detach(pod_.fd(), pod_.path()));
    EXPECT_EQ(pod_.dump(), before);
    EXPECT_EQ(cni("DEL", type, options), 0);
  }
  const std::string store_ = testing::TempDir() + "granary-cni-" + std::to_string(::getpid());
};

TEST_F(CniTest, Bridge) { expect_a_guest_serves("bridge", R"("bridge": "cni0", "isGateway": true, )"); }
TEST_F(CniTest, Ptp) { expect_a_guest_serves("ptp"); }

}  // namespace
}  // namespace granary::netplumb
