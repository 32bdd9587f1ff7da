// SPDX-License-Identifier: Apache-2.0
// Offloads and mergeable receive buffers (virtio 1.2, 5.1.3.1 and 5.1.6), with drivers that break their rules.
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "vmpool/virtio/net_fixture.h"

namespace granary::virtio {
namespace {

constexpr uint64_t kCsum = 1ULL << 0;
constexpr uint64_t kGuestCsum = 1ULL << 1;
constexpr uint64_t kGuestTso = 3ULL << 7;
constexpr uint64_t kGuestEcn = 1ULL << 9;
constexpr uint64_t kHostTso = 3ULL << 11;
constexpr uint64_t kHostEcn = 1ULL << 13;
constexpr uint64_t kMergeBuffers = 1ULL << 15;
constexpr NetHeader kTso4 = {
    .flags = 1, .gso_type = 1, .hdr_len = 54, .gso_size = 1448, .csum_start = 34, .csum_offset = 16};

std::string pattern(size_t bytes) {
  std::string text(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>('a' + i % 23);
  return text;
}

class NetOffloadTest : public NetTest {
 protected:
  void expect_dropped(std::string_view bytes) {
    const uint64_t before = net->dropped_frames();
    transmit(bytes);
    EXPECT_EQ(to_wire(), "");
    EXPECT_EQ(net->dropped_frames(), before + 1);
    EXPECT_FALSE(driver.needs_reset());
  }
};

TEST_F(NetOffloadTest, TheDriversHeaderReachesTheTap) {
  attach();
  transmit(frame(pattern(60'000), kTso4));
  EXPECT_EQ(to_wire(), frame(pattern(60'000), kTso4));
  NetHeader ecn = kTso4;
  ecn.gso_type |= 0x80;
  transmit(frame("ecn", ecn));
  EXPECT_EQ(to_wire(), frame("ecn", ecn));
}

TEST_F(NetOffloadTest, UnknownFlagsAndNumBuffersDoNot) {
  attach();
  transmit(frame("odd", {.flags = 0xfe, .num_buffers = 7}));
  EXPECT_EQ(to_wire(), frame("odd"));
}

TEST_F(NetOffloadTest, AHeaderInPiecesIsOne) {
  attach();
  const std::string bytes = frame("pieces", kTso4);
  const Gpa at = driver.place(bytes);
  driver.queue(kTx).add({{at, 5, false}, {at + 5, 4, false}, {at + 9, static_cast<uint32_t>(bytes.size() - 9), false}});
  driver.kick(kTx);
  EXPECT_EQ(to_wire(), bytes);
}

TEST_F(NetOffloadTest, SegmentsWithoutAChecksumAreDropped) {
  attach();
  NetHeader header = kTso4;
  header.flags = 0;
  expect_dropped(frame("x", header));
}

TEST_F(NetOffloadTest, KindsThatWereNeverOfferedAreDropped) {
  attach();
  for (const int type : {2, 3, 5, 6, 0x7f, 0x80, 0x83}) {
    NetHeader header = kTso4;
    header.gso_type = static_cast<uint8_t>(type);
    expect_dropped(frame("x", header));
  }
}

TEST_F(NetOffloadTest, WhatTheDriverDidNotTakeItMustNotUse) {
  attach();
  driver.start(8, kHostTso | kHostEcn);
  expect_dropped(frame("x", kTso4));
  NetHeader checksum = kTso4;
  checksum.gso_type = 0;
  transmit(frame("checksum", checksum));
  EXPECT_EQ(to_wire(), frame("checksum", checksum));
  driver.start(8, kCsum | kHostTso | kHostEcn);
  expect_dropped(frame("x", checksum));
  driver.start(8, kHostEcn);
  checksum.gso_type = 0x81;
  expect_dropped(frame("x", checksum));
}

TEST_F(NetOffloadTest, FeaturesThatNeedAnotherOneAreRefused) {
  for (const uint64_t refused : {kCsum, kGuestCsum, kHostTso, kGuestTso}) {
    driver.start(8, refused);
    EXPECT_TRUE(driver.needs_reset()) << std::hex << refused;
  }
  driver.start(8, kHostTso | kHostEcn | kCsum | kGuestTso | kGuestEcn | kGuestCsum);
  EXPECT_FALSE(driver.needs_reset());
}

TEST_F(NetOffloadTest, AFrameIsSpreadOverBuffersThatTheDriverSeesAtOnce) {
  attach();
  for (int round = 0; round < 2; ++round) {  // the second is read in place: its length is expected
    std::array<Gpa, 4> buffers;
    for (Gpa& buffer : buffers) buffer = add_buffer(1000);
    from_wire(pattern(2500), kTso4);
    std::string received;
    for (const size_t i : {0U, 1U, 2U}) {
      const std::optional<UsedElement> used = driver.queue(kRx).take_used();
      ASSERT_TRUE(used) << i;
      received += driver.text(buffers[i], used->length);
    }
    EXPECT_FALSE(driver.queue(kRx).take_used());
    NetHeader header = kTso4;
    header.num_buffers = 3;
    EXPECT_TRUE(received == frame(pattern(2500), header)) << round;
    from_wire("small");
    EXPECT_EQ(driver.queue(kRx).take_used()->length, 17U) << "in the fourth";
    EXPECT_EQ(driver.text(buffers[3] + 12, 5), "small");
    EXPECT_EQ(header_at(buffers[3]).num_buffers, 1);
  }
}

TEST_F(NetOffloadTest, AFrameWaitsForAllOfItsBuffers) {
  attach();
  const Gpa first = add_buffer(1000);
  from_wire(pattern(1500));
  from_wire("next");
  EXPECT_FALSE(driver.queue(kRx).take_used());
  const Gpa second = add_buffer(1000);
  EXPECT_EQ(driver.queue(kRx).take_used()->length, 1000U);
  EXPECT_EQ(driver.queue(kRx).take_used()->length, 512U);
  EXPECT_EQ(driver.text(first + 12, 988) + driver.text(second, 512), pattern(1500));
  const Gpa third = add_buffer(1000);
  ASSERT_TRUE(driver.queue(kRx).take_used());
  EXPECT_EQ(driver.text(third + 12, 4), "next");
}

TEST_F(NetOffloadTest, AFrameForWhichTheRingIsTooSmallIsDropped) {
  attach();
  from_wire(pattern(900));
  for (int i = 0; i < 8; ++i) add_buffer(100);
  EXPECT_EQ(net->dropped_frames(), 1U);
  from_wire(pattern(700));
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(driver.queue(kRx).take_used()) << "the next one fits";
}

TEST_F(NetOffloadTest, TheLargestFrameArrives) {
  attach();
  const int size = 1 << 20;
  ::setsockopt(wire.get(), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
  const Gpa buffer = add_buffer(70'000);
  from_wire(pattern(65'549), kTso4);
  ASSERT_TRUE(driver.queue(kRx).take_used());
  EXPECT_TRUE(driver.text(buffer + 12, 65'549) == pattern(65'549));
  add_buffer(100'000);
  from_wire(pattern(65'554), kTso4);
  EXPECT_EQ(net->dropped_frames(), 1U) << "larger than any";
}

TEST_F(NetOffloadTest, WithoutMergingAFrameFitsOneBufferOrIsDropped) {
  attach();
  driver.start(8, kMergeBuffers);
  const Gpa buffer = add_buffer(1000);
  add_buffer(1000);
  from_wire(pattern(1500));
  EXPECT_EQ(net->dropped_frames(), 1U);
  from_wire("fits");
  EXPECT_EQ(driver.queue(kRx).take_used()->length, 16U);
  EXPECT_EQ(driver.text(buffer + 12, 4), "fits");
  EXPECT_EQ(header_at(buffer).num_buffers, 1);
}

TEST_F(NetOffloadTest, ALaterBufferWithoutRoomForAHeaderNeedsReset) {
  attach();
  add_buffer(1000);
  add_buffer(11);
  EXPECT_FALSE(driver.needs_reset());
  from_wire(pattern(1500));
  EXPECT_TRUE(driver.needs_reset());
  driver.start(8);
  const Gpa buffer = add_buffer(1000);
  from_wire("again");
  EXPECT_EQ(driver.text(buffer + 12, 5), "again") << "the frame that was begun went with the ring";
}

TEST_F(NetOffloadTest, FramesThatTheDriverCannotTakeAreDropped) {
  attach();
  driver.start(8, kGuestTso | kGuestEcn | kGuestCsum);
  const Gpa buffer = add_buffer(1000);
  from_wire("x", kTso4);
  from_wire("x", {.flags = 1});
  EXPECT_EQ(net->dropped_frames(), 2U);
  from_wire("plain", {.flags = 2});
  ASSERT_TRUE(driver.queue(kRx).take_used());
  EXPECT_EQ(header_at(buffer).flags, 0) << "DATA_VALID is a part of GUEST_CSUM";
}

TEST_F(NetOffloadTest, AFloodLeavesTheLoopItsTurns) {
  attach();
  int other = 0;
  for (int i = 0; i < 4; ++i) {
    driver.queue(kTx).add({{driver.allocate(65'000), 65'000, false}});
    driver.queue(kTx).add({{driver.allocate(65'000), 65'000, false}});
  }
  driver.kick(kTx);
  loop->post([&] { ++other; });
  must(loop->run_once(0));
  EXPECT_EQ(other, 1);
  for (int i = 0; i < 20; ++i) {
    (void)to_wire();
    must(loop->run_once(0));
  }
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(driver.queue(kTx).take_used());
}

// What a tap shows of its offloads.
class NetTapTest : public NetOffloadTest {
 protected:
  void SetUp() override {
    if (::unshare(CLONE_NEWNET) != 0) GTEST_SKIP() << "a network namespace of its own needs root";
    Result<Fd> opened = open_file("/dev/net/tun", O_RDWR);
    if (!opened) GTEST_SKIP() << opened.error().message();
    ifreq request{};
    std::strcpy(request.ifr_name, "tap0");
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (::ioctl(opened->get(), TUNSETIFF, &request) != 0) GTEST_SKIP() << "no tap here";
    tap = std::move(*opened);
  }
  [[nodiscard]] static bool shows(uint32_t what) {
    const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ethtool_value value{what, 0};
    ifreq request{};
    std::strcpy(request.ifr_name, "tap0");
    request.ifr_data = reinterpret_cast<char*>(&value);
    EXPECT_EQ(::ioctl(socket.get(), SIOCETHTOOL, &request), 0);
    return value.data != 0;
  }
  Fd tap;
};

TEST_F(NetTapTest, HasTheOffloadsThatWereNegotiatedBeforeItCame) {
  must(net->attach(std::move(tap)));
  EXPECT_TRUE(shows(ETHTOOL_GTSO));
  EXPECT_TRUE(shows(ETHTOOL_GTXCSUM));
}

TEST_F(NetTapTest, HasNoneThatTheDriverRefused) {
  driver.start(8, kGuestTso | kGuestEcn);
  must(net->attach(std::move(tap)));
  EXPECT_FALSE(shows(ETHTOOL_GTSO));
  EXPECT_TRUE(shows(ETHTOOL_GTXCSUM));
}

TEST_F(NetTapTest, HasThemAfterARestore) {
  const TransportState state = must(machine.transport->save());
  auto device = std::make_unique<Net>(*loop, MacAddress{});
  Net* restored = device.get();
  MmioTransport other(std::move(device), *machine.memory, must(EventFd::create()), must(EventFd::create()));
  must(other.restore(state));
  must(restored->attach(std::move(tap)));
  EXPECT_TRUE(shows(ETHTOOL_GTSO));
}

TEST_F(NetTapTest, FollowsADriverThatNegotiatesAnewButNotForEver) {
  must(net->attach(std::move(tap)));
  driver.start(8, kGuestTso | kGuestEcn);
  EXPECT_FALSE(shows(ETHTOOL_GTSO));
  driver.start(8);
  EXPECT_TRUE(shows(ETHTOOL_GTSO));
  for (int i = 0; i < 100 && !driver.needs_reset(); ++i) driver.start(8, i % 2 == 0 ? kGuestTso | kGuestEcn : 0);
  EXPECT_TRUE(driver.needs_reset());
}

}  // namespace
}  // namespace granary::virtio
