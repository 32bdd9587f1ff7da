// SPDX-License-Identifier: Apache-2.0
// The net device under Linux's own driver, with real taps in a network namespace of the test's own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/rtnetlink.h>
#include <unistd.h>

#include <thread>

#include "tests/integration/linux_clones.h"
#include "tests/integration/test_network.h"
#include "vmpool/guest/guest.pb.h"
#include "vmpool/pool/sha256.h"

namespace granary::integration {
namespace {

using testing::HasSubstr;

constexpr size_t kTransferBytes = 8 * kMiB;
const std::string kHost = "10.77.0.1";
const std::string kGuest = "10.77.0.2";
const std::string kTap = "granary-tap";

class FreshNetwork : public LinuxClones {
 public:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "taps and network namespaces need root";
    ASSERT_TRUE(enter_fresh_network());
    LinuxClones::SetUp();
  }
};
LinuxClones* const clones =
    dynamic_cast<LinuxClones*>(testing::AddGlobalTestEnvironment(new FreshNetwork));  // gtest owns it

std::string carrier_of(const std::string& link) { return "[ $(cat /sys/class/net/" + link + "/carrier) = 1 ]"; }
std::string guest_up() { return "set -e\nip link set eth0 up\nip addr add " + kGuest + "/24 dev eth0\n"; }

guest::v1::Network network() {
  const std::string guest("\x0a\x4d\0\x02", 4);
  const std::string host("\x0a\x4d\0\x01", 4);
  guest::v1::Network network;
  guest::v1::Link& link = *network.add_links();
  link.set_name("pod0");
  link.set_mac(std::string("\x02\x47\0\0\0\x01", 6));
  link.set_mtu(1400);
  guest::v1::Address& v4 = *network.add_addresses();
  v4.set_local(guest);
  v4.set_prefix_length(24);
  guest::v1::Address& v6 = *network.add_addresses();
  v6.set_local(std::string("\xfd\x77\0\0\0\0\0\0\0\0\0\0\0\0\0\x02", 16));
  v6.set_prefix_length(64);
  for (const bool with_gateway : {false, true}) {
    guest::v1::Route& route = *network.add_routes();
    route.mutable_destination()->set_address(with_gateway ? std::string(4, '\0') : std::string("\x0a\x4d\0\0", 4));
    route.mutable_destination()->set_length(with_gateway ? 0 : 24);
    route.set_table(RT_TABLE_MAIN);
    route.set_type(RTN_UNICAST);
    route.set_protocol(RTPROT_STATIC);
    route.set_scope(with_gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK);
    guest::v1::NextHop& hop = *route.add_next_hops();
    hop.set_link(0);
    hop.set_weight(1);
    if (with_gateway) hop.set_gateway(host);
  }
  return network;
}

std::string noise(size_t bytes) {
  std::string text(bytes, '\0');
  uint32_t state = 1;
  for (char& c : text) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return text;
}

class NetLinuxTest : public testing::Test {
 protected:
  void SetUp() override {
    Result<Fd> tap = open_tap(kTap);
    ASSERT_TRUE(tap) << tap.error().message();
    tap_ = std::move(*tap);
    const Status up = bring_up(kTap, kHost);
    ASSERT_TRUE(up) << up.error().message();
  }
  void TearDown() override {
    if (!id_.empty()) release();
  }
  // The tap becomes the clone's alone.
  void take(std::optional<guest::v1::Network> network = {}) {
    pool::Attachments attachments;
    if (network) attachments.network = std::make_shared<guest::v1::Network>(*std::move(network));
    attachments.taps.push_back(std::move(tap_));
    const Result<pool::CloneInfo> clone = clones->pool().acquire({}, in_time(), attachments);
    ASSERT_TRUE(clone) << clone.error().message();
    id_ = clone->id;
    socket_ = clone->socket_path;
  }
  CommandEnd run(const std::string& script) const { return run_script(socket_, script); }
  void release() {
    const Result<bool> released = clones->pool().release(std::exchange(id_, ""));
    EXPECT_TRUE(released && *released);
  }

  Fd tap_;
  std::string id_;
  std::string socket_;
};

TEST_F(NetLinuxTest, PingsBothWaysAndLeavesNoTap) {
  take();
  const CommandEnd guest = run(guest_up() + until(carrier_of("eth0")) + "ping -c 2 -w 120 " + kHost);
  EXPECT_EQ(guest.status, 0) << guest.output;
  EXPECT_THAT(guest.output, HasSubstr("bytes from " + kHost));
  EXPECT_TRUE(ping(kGuest, "from the host"));
  EXPECT_TRUE(ping(kGuest, noise(1400))) << "nearly a whole frame";
  EXPECT_TRUE(ping(kGuest, noise(20'000))) << "in fragments";
  const CommandEnd spare = run("ip link set eth1 up; cat /sys/class/net/eth1/carrier /sys/class/net/eth0/carrier");
  EXPECT_EQ(spare.output, "0\n1\n") << "the slot without a tap stays down";
  EXPECT_TRUE(interface_running(kTap));
  release();
  EXPECT_FALSE(interface_exists(kTap));
}

TEST_F(NetLinuxTest, IsConfiguredBeforeItIsHandedOver) {
  take(network());
  const CommandEnd guest = run("set -e\nping -c 1 -w 120 " + kHost +
                               " >/dev/null\ncat /sys/class/net/pod0/address /sys/class/net/pod0/mtu\n"
                               "ip -4 addr show pod0; ip -6 addr show pod0; ip route; ip neigh");
  EXPECT_EQ(guest.status, 0) << guest.output;
  EXPECT_THAT(guest.output, HasSubstr("02:47:00:00:00:01\n1400\n"));
  EXPECT_THAT(guest.output, HasSubstr("inet " + kGuest + "/24"));
  EXPECT_THAT(guest.output, HasSubstr("inet6 fd77::2/64"));
  EXPECT_THAT(guest.output, HasSubstr("default via " + kHost + " dev pod0"));
  EXPECT_TRUE(ping(kGuest, "from the host"));
  const Result<Fd> listener = listen_on(kHost, 5001);
  ASSERT_TRUE(listener) << listener.error().message();
  CommandEnd end;
  std::string line(6, '\0');
  {
    const std::jthread talk([&] { end = run("echo hello | nc -w 60 " + kHost + " 5001"); });
    const Result<Fd> connection = accept_one(*listener);
    ASSERT_TRUE(connection) << connection.error().message();
    EXPECT_EQ(::read(connection->get(), line.data(), line.size()), 6);
    EXPECT_TRUE(write_all(connection->get(), std::as_bytes(std::span("world\n", 6))));
  }
  EXPECT_EQ(line, "hello\n");
  EXPECT_EQ(end.output, "world\n");
}

TEST_F(NetLinuxTest, ANetworkThatTheKernelRefusesEndsTheClone) {
  const uint64_t reclaimed = clones->pool().status().reclaimed;
  guest::v1::Network bad = network();
  bad.mutable_routes(1)->mutable_next_hops(0)->set_gateway(std::string("\xc0\0\x02\x01", 4));
  pool::Attachments attachments;
  attachments.taps.push_back(std::move(tap_));
  attachments.network = std::make_shared<guest::v1::Network>(bad);
  const Result<pool::CloneInfo> clone = clones->pool().acquire({}, in_time(), attachments);
  ASSERT_FALSE(clone);
  EXPECT_THAT(clone.error().message(),
              HasSubstr("network: route 0.0.0.0/0 of table 254 (Nexthop has invalid gateway)"));
  EXPECT_EQ(clones->pool().status().reclaimed, reclaimed + 1);
}

TEST_F(NetLinuxTest, ARunningGuestSeesTheLinkComeUp) {
  const auto clone = clones->bare_clone();
  ASSERT_TRUE(clone) << clone.error().message();
  const std::string& socket = (*clone)->socket_path();
  EXPECT_EQ(run_script(socket, guest_up() + "cat /sys/class/net/eth0/carrier").output, "0\n");
  EXPECT_NE(run_script(socket, "ping -c 1 -W 1 " + kHost).status, 0);
  const Status attached = (*clone)->vmm().attach_net(0, tap_.get());
  ASSERT_TRUE(attached) << attached.error().message();
  const CommandEnd end = run_script(socket, until(carrier_of("eth0")) + "ping -c 1 -w 120 " + kHost);
  EXPECT_EQ(end.status, 0) << end.output;
  EXPECT_FALSE((*clone)->vmm().attach_net(0, tap_.get())) << "the slot is taken";
  EXPECT_THAT((*clone)->destroy(), testing::IsEmpty());
}

TEST_F(NetLinuxTest, LargeTransfersArriveUnchanged) {
  take();
  const Result<Fd> listener = listen_on(kHost, 5000);
  ASSERT_TRUE(listener) << listener.error().message();
  const CommandEnd up = run(guest_up() + until(carrier_of("eth0")) + "dd if=/dev/urandom of=/tmp/out bs=1M count=8");
  ASSERT_EQ(up.status, 0) << up.output;

  std::string from_guest;
  CommandEnd sent;
  {
    const std::jthread guest([&] { sent = run("nc " + kHost + " 5000 </tmp/out; sha256sum </tmp/out"); });
    const Result<Fd> connection = accept_one(*listener);
    ASSERT_TRUE(connection) << connection.error().message();
    std::string buffer(65536, '\0');
    for (ssize_t n = 0; (n = ::read(connection->get(), buffer.data(), buffer.size())) > 0;) {
      from_guest.append(buffer, 0, static_cast<size_t>(n));
    }
  }
  EXPECT_EQ(from_guest.size(), kTransferBytes);
  EXPECT_THAT(sent.output, HasSubstr(pool::sha256_of(from_guest)));

  const std::string to_guest = noise(kTransferBytes);
  CommandEnd received;
  {
    const std::jthread guest([&] { received = run("nc " + kHost + " 5000 </dev/null | sha256sum"); });
    const Result<Fd> connection = accept_one(*listener);
    ASSERT_TRUE(connection) << connection.error().message();
    EXPECT_TRUE(write_all(connection->get(), std::as_bytes(std::span(to_guest))));
  }
  EXPECT_THAT(received.output, HasSubstr(pool::sha256_of(to_guest)));
  EXPECT_EQ(run("dmesg | grep -c 'virtio_net.*error'").output, "0\n");
  EXPECT_EQ(dropped_frames(kTap), 0U) << "TCP was held back, not made to lose";
  EXPECT_EQ(run("cat /sys/class/net/eth0/statistics/?x_dropped").output, "0\n0\n");
}

TEST_F(NetLinuxTest, APersistentTapServesOneCloneAfterTheOther) {
  ASSERT_TRUE(set_persistent(tap_, true));
  for (int i = 0; i < 2; ++i) {
    take();
    const CommandEnd end = run(guest_up() + until(carrier_of("eth0")) + "ping -c 1 -w 120 " + kHost);
    EXPECT_EQ(end.status, 0) << end.output;
    release();
    ASSERT_TRUE(interface_exists(kTap));
    // The kernel tells of a lost carrier at most once a second (net/core/link_watch.c).
    const pool::SteadyTime limit = in_time();
    while (interface_running(kTap) && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    EXPECT_FALSE(interface_running(kTap));
    Result<Fd> again = open_tap(kTap);
    ASSERT_TRUE(again) << again.error().message();
    tap_ = std::move(*again);
  }
  ASSERT_TRUE(set_persistent(tap_, false));
  tap_.reset();
  EXPECT_FALSE(interface_exists(kTap));
}

TEST_F(NetLinuxTest, ATapOfTheWrongKindIsRefusedAndCostsOneClone) {
  const uint64_t reclaimed = clones->pool().status().reclaimed;
  pool::Attachments attachments;
  attachments.taps.push_back(*open_file("/dev/null", 2));
  const Result<pool::CloneInfo> clone = clones->pool().acquire({}, in_time(), attachments);
  ASSERT_FALSE(clone);
  EXPECT_THAT(clone.error().message(), HasSubstr("was the tap made with IFF_VNET_HDR?"));
  EXPECT_EQ(clones->pool().status().reclaimed, reclaimed + 1);
}

}  // namespace
}  // namespace granary::integration
