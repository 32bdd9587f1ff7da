// SPDX-License-Identifier: Apache-2.0
// attach() in network namespaces that are configured as CNI plugins configure them.
#include "netplumb/attach.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <future>
#include <memory>
#include <thread>

#include "netplumb/netns.h"
#include "netplumb/test_netns.h"

namespace granary::netplumb {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

constexpr size_t kMostLinks = 2;
constexpr const char* kMac = "02:00:00:00:00:05";

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

// A pod's namespace and the host's end of its network, joined by a veth pair eth0 <-> host0.
class AttachTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!pod_.valid() || !host_.valid())
      GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    ASSERT_EQ(std::system(("ip link add eth0 netns " + pod_.name() + " address " + kMac +
                           " type veth peer host0 netns " + host_.name())
                              .c_str()),
              0);
    ASSERT_EQ(host_.run("ip link set host0 up"), 0);
    ASSERT_EQ(pod_.run("sysctl -qw net.ipv6.conf.eth0.accept_dad=0 && ip link set eth0 up"), 0);
    // Carrier and link-local address come a moment later, and would look like a difference.
    ASSERT_EQ(pod_.run("for i in $(seq 1000); do ip -o -6 addr show dev eth0 | grep fe80 | grep -qv tentative && exit "
                       "0; done; exit 1"),
              0);
  }
  void configure(const std::string& pod, const std::string& host = "true") const {
    ASSERT_EQ(host_.run(host), 0);
    ASSERT_EQ(pod_.run(pod), 0);
  }
  [[nodiscard]] Result<Attachment> attach_pod() const { return attach(pod_.fd(), pod_.path(), kMostLinks); }
  NetworkConfig attached() {
    auto made = attach_pod();
    EXPECT_TRUE(made) << made.error().message();
    if (!made) return {};
    EXPECT_EQ(made->taps.size(), made->config.links.size());
    attachment_ = *std::move(made);
    return attachment_.config;
  }
  // The host pings a guest that has taken the pod's place; then everything is taken away and the namespace is as
  // before.
  void expect_guest_answers(const std::vector<std::string>& addresses, const std::string& ping,
                            const std::string& mac = kMac) {
    int stop[2];
    ASSERT_EQ(::pipe(stop), 0);
    auto guest = std::async(std::launch::async,
                            [&] { return answer_as_guest(attachment_.taps.front().get(), addresses, mac, stop[0]); });
    EXPECT_EQ(host_.run("for a in " + ping + "; do ping -q -c 3 -i 0.01 -W 5 $a >/dev/null; done"), 0);
    ::close(stop[1]);
    EXPECT_EQ(guest.get(), 0U) << "frames of the namespace's own stack";
    ::close(stop[0]);
  }
  [[nodiscard]] Error refusal() const {
    const std::string before = pod_.dump();
    const auto made = attach_pod();
    EXPECT_FALSE(made);
    EXPECT_EQ(pod_.dump(), before);
    return made ? Error(Errc::kInvalidArgument, "") : made.error();
  }

  const TestNetns pod_{"pod"};
  const TestNetns host_{"host"};
  Attachment attachment_;
};

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

TEST_F(AttachTest, OtherKindsAreRefusedByName) {
  for (const std::string& kind : {std::string("bridge"), std::string("vxlan id 7 dstport 4789 local 10.0.0.1"),
                                  std::string("ipvlan"), std::string("netkit")}) {
    const std::string link = kind == "ipvlan" ? "link eth0 " : "";
    if (pod_.run("ip link add " + link + "odd0 type " + kind + " 2>/dev/null && ip link set odd0 up") != 0)
      continue;  // not of this kernel
    const Error refused = refusal();
    EXPECT_TRUE(refused.is(Errc::kNotSupported)) << kind;
    EXPECT_THAT(refused.message(),
                AllOf(HasSubstr(pod_.path()), HasSubstr("odd0"), HasSubstr(kind.substr(0, kind.find(' ')))));
    ASSERT_EQ(pod_.run("ip link del odd0"), 0);
  }
}

TEST_F(AttachTest, WhatIsMadeOnAWiredInterfaceIsRefused) {
  for (const std::string& kind : {std::string("macvlan"), std::string("vlan id 5")}) {
    configure("ip addr replace 10.11.0.2/24 dev eth0");
    if (pod_.run("ip link add link eth0 sub0 type " + kind + " 2>/dev/null") != 0) continue;  // not of this kernel
    configure("ip link set sub0 up; ip addr add 10.12.0.2/24 dev sub0");
    const Error refused = refusal();
    EXPECT_TRUE(refused.is(Errc::kNotSupported)) << refused.message();
    EXPECT_THAT(refused.message(), AllOf(HasSubstr("sub0: a " + kind.substr(0, kind.find(' '))), HasSubstr("on eth0")));
    ASSERT_EQ(pod_.run("ip link del sub0"), 0);
  }
}

TEST_F(AttachTest, WhatAGuestCannotHaveIsRefused) {
  configure("ip addr add 10.11.0.2/24 dev eth0; ip rule add ipproto tcp table 9 priority 5");
  EXPECT_THAT(refusal().message(), HasSubstr("the rule of priority 5"));
}

TEST_F(AttachTest, WithoutAnAddressItIsNotFinished) {
  const Error refused = refusal();
  EXPECT_TRUE(refused.is(Errc::kInvalidArgument));
  EXPECT_THAT(refused.message(), HasSubstr("eth0: it has no address"));
}

TEST_F(AttachTest, AnothersIngressQdiscStays) {
  for (const char* qdisc : {"ingress", "clsact"}) {
    configure("ip addr replace 10.12.0.2/24 dev eth0; tc qdisc replace dev eth0 " + std::string(qdisc));
    const Error refused = refusal();
    EXPECT_TRUE(refused.is_errno(EEXIST)) << refused.message();
    EXPECT_THAT(refused.message(), HasSubstr("eth0: somebody else's ingress"));
    ASSERT_EQ(pod_.run("tc qdisc del dev eth0 " + std::string(qdisc)), 0);
  }
}

TEST_F(AttachTest, ASecondAttachTakesTheFirstOnesPlaceUnlessAVmmHasIt) {
  configure("ip addr add 10.13.0.2/24 dev eth0", "ip addr add 10.13.0.1/24 dev host0");
  const std::string before = pod_.dump();
  (void)attached();
  const std::string wired = pod_.dump();
  const auto again = attach_pod();
  ASSERT_FALSE(again);
  EXPECT_TRUE(again.error().is_errno(EBUSY)) << again.error().message();
  EXPECT_EQ(pod_.dump(), wired);
  expect_guest_answers({"10.13.0.2"}, "10.13.0.2");
  attachment_.taps.clear();  // the VMM is gone, its persistent tap is not
  (void)attached();
  expect_guest_answers({"10.13.0.2"}, "10.13.0.2");
  EXPECT_TRUE(detach(pod_.fd(), pod_.path()));
  EXPECT_TRUE(detach(pod_.fd(), pod_.path())) << "twice";
  EXPECT_EQ(pod_.dump(), before);
}

TEST_F(AttachTest, AnInterfaceThatVanishedLeavesItsTapToDetach) {
  configure("ip addr add 10.13.0.2/24 dev eth0");
  (void)attached();
  ASSERT_EQ(pod_.run("ip link del eth0"), 0);
  EXPECT_TRUE(detach(pod_.fd(), pod_.path()));
  EXPECT_THAT(pod_.output("ls /sys/class/net"), "lo\n");
}

TEST_F(AttachTest, ManyTimesLeaveNothing) {
  configure(
      "ip addr add 10.14.0.2/24 dev eth0; ip addr add fd14::2/64 dev eth0 nodad; ip route add default via 10.14.0.1");
  const std::string before = pod_.dump();
  for (int i = 0; i < 500; ++i) {
    const auto made = attach_pod();
    ASSERT_TRUE(made) << made.error().message();
    ASSERT_TRUE(detach(pod_.fd(), pod_.path()));
  }
  EXPECT_EQ(pod_.dump(), before);
}

TEST_F(AttachTest, ManyAtOnce) {
  constexpr int kPods = 64;
  std::vector<std::unique_ptr<TestNetns>> pods;
  for (int i = 0; i < kPods; ++i) {
    pods.push_back(std::make_unique<TestNetns>("many" + std::to_string(i)));
    ASSERT_EQ(
        pods.back()->run("ip link add eth0 type veth peer p; ip link set eth0 up; ip addr add 10.15.0.2/24 dev eth0"),
        0);
  }
  std::vector<std::future<Result<Attachment>>> calls;
  calls.reserve(pods.size());
  for (const auto& pod : pods) {
    calls.push_back(std::async(std::launch::async, [&pod] { return attach(pod->fd(), pod->path(), kMostLinks); }));
  }
  for (auto& call : calls) {
    const auto made = call.get();
    EXPECT_TRUE(made) << made.error().message();
  }
}

// Between an attach that was killed and the detach, or on an interface that was given the index of one that went.
TEST_F(AttachTest, AQdiscThatIsNotOursOutlivesOurTap) {
  configure(
      "ip addr add 10.12.0.2/24 dev eth0; ip tuntap add gtap$(cat /sys/class/net/eth0/ifindex) mode tap vnet_hdr;"
      "tc qdisc add dev eth0 clsact; tc filter add dev eth0 ingress protocol all u32 match u32 0 0 flowid 1:1");
  const std::string filters = pod_.output("tc filter show dev eth0 ingress");
  ASSERT_THAT(filters, HasSubstr("u32"));
  EXPECT_TRUE(detach(pod_.fd(), pod_.path()));
  EXPECT_EQ(pod_.output("tc filter show dev eth0 ingress"), filters);
  EXPECT_EQ(pod_.output("ls /sys/class/net | grep -c gtap || true"), "0\n");
}

class AttachKilledTest : public AttachTest, public testing::WithParamInterface<const char*> {};

TEST_P(AttachKilledTest, DetachFindsItsWay) {
  configure("ip addr add 10.17.0.2/24 dev eth0; ip addr add fd17::2/64 dev eth0 nodad");
  const std::string before = pod_.dump();
  const std::string armed = testing::TempDir() + "granary-netplumb-" + std::to_string(::getpid());
  std::fclose(std::fopen(armed.c_str(), "w"));
  const std::string command = "GRANARY_FAULT=" + std::string(GetParam()) + ":" + armed + " exec " +
                              GRANARY_ATTACH_AND_DETACH + " " + pod_.path();
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the step was not reached";
  const auto again = attach_pod();  // what an agent does that comes back to the same pod
  EXPECT_TRUE(again) << again.error().message();
  EXPECT_TRUE(detach(pod_.fd(), pod_.path()));
  EXPECT_EQ(pod_.dump(), before);
}
INSTANTIATE_TEST_SUITE_P(Each, AttachKilledTest,
                         testing::Values("attach.tap", "attach.tap-redirected", "attach.qdisc", "attach.wired",
                                         "detach.redirect", "detach.tap"));

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

TEST_F(AttachTest, WithoutTheRightItSaysWhich) {
  configure("ip addr add 10.16.0.2/24 dev eth0");
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
    const auto made = attach(pod_.fd(), pod_.path(), kMostLinks);
    ::_exit(!made && made.error().is_errno(EPERM) && made.error().message().find("CAP_") != std::string::npos ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(NetnsTest, OnlyNetworkNamespacesOfOthersAreOpened) {
  const auto code = [](const std::string& path) { return open_netns(path).error(); };
  EXPECT_TRUE(code("relative").is(Errc::kInvalidArgument));
  EXPECT_TRUE(code("/dev/null").is(Errc::kInvalidArgument));
  EXPECT_TRUE(code("/proc/self/ns/mnt").is(Errc::kInvalidArgument));
  EXPECT_TRUE(code("/run/netns/granary-none").is_errno(ENOENT));
  const Error too_long = code("/" + std::string(1 << 20, 'n'));
  EXPECT_TRUE(too_long.is(Errc::kInvalidArgument));
  EXPECT_LT(too_long.message().size(), 200U);
  EXPECT_TRUE(code(std::string("/run/netns/a\0b", 14)).is(Errc::kInvalidArgument));
  const Error own = code("/proc/self/ns/net");
  EXPECT_TRUE(own.is(Errc::kNotSupported));
  EXPECT_THAT(own.message(), HasSubstr("hostNetwork"));
  const TestNetns netns("open");
  if (!netns.valid()) GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
  EXPECT_TRUE(open_netns(netns.path()));
}

}  // namespace
}  // namespace granary::netplumb
