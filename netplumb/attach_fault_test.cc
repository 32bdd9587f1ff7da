// SPDX-License-Identifier: Apache-2.0
// What attach() refuses, and what is left when something goes wrong: nothing.
#include <gmock/gmock.h>
#include <linux/rtnetlink.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <memory>

#include "netplumb/attach_fixture.h"
#include "netplumb/netlink.h"
#include "netplumb/netns.h"
#include "netplumb/tap.h"

namespace granary::netplumb {
namespace {

using testing::AllOf;
using testing::HasSubstr;

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
  configure("ip addr add 10.17.0.2/24 dev eth0; ip addr add fd17::2/64 dev eth0 nodad; ip link set eth0 txqueuelen 0");
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

TEST_F(AttachTest, WithoutTheRightInTheNamespaceItSaysWhich) {
  configure("ip addr add 10.16.0.2/24 dev eth0");
  const std::string before = pod_.dump();
  const std::string said = said_without_net_admin([&] {
    const auto made = attach_pod(Frames::kOwn);
    return made ? std::string("attached") : made.error().message();
  });
  EXPECT_THAT(said, AllOf(HasSubstr(pod_.path()), HasSubstr("make tap gtap"), HasSubstr("needs CAP_NET_ADMIN")));
  EXPECT_EQ(pod_.dump(), before);
}

// Of two interfaces the first one is wired already.
TEST_F(AttachTest, ANameThatIsTakenTakesAllOfItBack) {
  configure(
      "ip addr add 10.16.0.2/24 dev eth0; ip link add net1 type veth peer other; ip addr add 10.8.0.2/24 dev net1;"
      "ip link set net1 up; ip link add gtap$(cat /sys/class/net/net1/ifindex) type bridge");
  const std::string name = pod_.output("basename /sys/class/net/gtap*");
  const Error refused = refusal(Frames::kOwn);
  EXPECT_TRUE(refused.is_errno(EINVAL));
  EXPECT_THAT(refused.message(), AllOf(HasSubstr(pod_.path()), HasSubstr(name.substr(0, name.size() - 1)),
                                       HasSubstr("an interface that is no such tap has this name")));
}

TEST_F(AttachTest, TheHighestIndexHasATapsNameAndALongerOneIsRefused) {
  configure(
      "ip link del eth0; ip link add index 2147483647 name a23456789012345 type veth peer other;"
      "ip link set a23456789012345 up; ip addr add 10.16.0.2/24 dev a23456789012345");
  EXPECT_EQ(attached().links.at(0).name, "a23456789012345");
  EXPECT_EQ(pod_.output("basename /sys/class/net/gtap*"), "gtap2147483647\n");
  EXPECT_TRUE(detach(pod_.fd(), pod_.path()));
  const auto too_long = make_tap("b234567890123456");
  ASSERT_FALSE(too_long);
  EXPECT_TRUE(too_long.error().is(Errc::kInvalidArgument));
  EXPECT_THAT(too_long.error().message(), HasSubstr("tap b234567890123456: a name of more than 15 bytes"));
}

class VanishingTest : public AttachTest {
 protected:
  // Removes net0 of the pod so long after this call.
  [[nodiscard]] Status remove_link(std::chrono::microseconds after) const {
    return in_netns(pod_.fd(), [&]() -> Status {
      Netlink netlink = GRANARY_TRY(Netlink::open());
      Request request(RTM_DELLINK, 0, ifinfomsg{});
      request.put_text(IFLA_IFNAME, "net0");
      const std::string what = "remove net0";
      for (const auto start = std::chrono::steady_clock::now(); std::chrono::steady_clock::now() - start < after;) {
      }
      return netlink.ask({&request, 1}, {&what, 1});
    });
  }
};

// Taken down after more and more of an attach.
TEST_F(VanishingTest, AnInterfaceThatVanishesMidwayIsNamedAndLeavesNothing) {
  ASSERT_EQ(pod_.run("ip link del eth0"), 0);
  size_t refusals = 0;
  for (int round = 0; round < 40; ++round) {
    ASSERT_EQ(pod_.run("ip link add net0 type veth peer p; ip link set net0 up; ip addr add 10.16.0.2/24 dev net0"), 0);
    auto taker = std::async(std::launch::async, [&] { return remove_link(std::chrono::microseconds(20) * round); });
    const auto made = attach_pod(Frames::kOwn);
    const Status removed = taker.get();
    EXPECT_TRUE(removed) << removed.error().message();
    if (!made) {
      ++refusals;
      EXPECT_THAT(made.error().message(),
                  AllOf(HasSubstr(pod_.path()), testing::AnyOf(HasSubstr("net0"), HasSubstr("gtap"))));
      EXPECT_EQ(pod_.output("ls /sys/class/net"), "lo\n") << made.error().message();
    }
    ASSERT_TRUE(detach(pod_.fd(), pod_.path()));
    ASSERT_EQ(pod_.output("ls /sys/class/net"), "lo\n");
  }
  EXPECT_GT(refusals, 0U) << "none was under way";
}

TEST(NetnsTest, OneThatVanishesMidwayTakesAllOfItAlong) {
  for (int round = 0; round < 10; ++round) {
    auto pod = std::make_unique<TestNetns>("vanishing");
    if (!pod->valid()) GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    ASSERT_EQ(pod->run("ip link add eth0 type veth peer p; ip link set eth0 up; ip addr add 10.15.0.2/24 dev eth0"), 0);
    const std::string path = pod->path();
    const auto netns = open_netns(path);
    ASSERT_TRUE(netns);
    auto attaching =
        std::async(std::launch::async, [&] { return attach(netns->get(), path, kMostLinks, Frames::kOwn); });
    pod.reset();
    const auto made = attaching.get();
    EXPECT_TRUE(made) << made.error().message();  // its descriptor keeps it
    EXPECT_TRUE(detach(netns->get(), path));
    EXPECT_TRUE(open_netns(path).error().is_errno(ENOENT));
  }
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
