// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include "vmpool/virtio/net_fixture.h"

namespace granary::virtio {
namespace {

TEST_F(NetTest, ConfigShowsMacAndLink) {
  EXPECT_EQ(driver.config<MacAddress>(0), kMac);
  EXPECT_EQ(driver.config<uint16_t>(6), 0);
  attach();
  EXPECT_EQ(driver.config<uint16_t>(6), 1);
  EXPECT_EQ(driver.take_interrupt() & 2, 2U);
}

TEST_F(NetTest, FramesFlowBothWays) {
  attach();
  transmit(frame("out"));
  EXPECT_EQ(to_wire(), frame("out"));
  const Gpa buffer = driver.allocate(1600);
  driver.queue(kRx).add({{buffer, 1600, true}});
  driver.kick(kRx);
  from_wire("in");
  const std::optional<UsedElement> used = driver.queue(kRx).take_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->length, 14U);
  EXPECT_EQ(driver.text(buffer + 12, 2), "in");
  EXPECT_EQ(std::to_integer<int>(driver.bytes(buffer + 10, 1)[0]), 1) << "num_buffers";
}

TEST_F(NetTest, LinkDownDropsSilently) {
  transmit(frame("lost"));
  EXPECT_EQ(net->dropped_frames(), 0U);
  EXPECT_FALSE(driver.needs_reset());
}

TEST_F(NetTest, FramesWaitForBuffers) {
  attach();
  for (int i = 0; i < 5; ++i) from_wire("frame " + std::to_string(i));
  EXPECT_FALSE(driver.queue(kRx).take_used());
  const Gpa buffer = driver.allocate(1600);
  for (int i = 0; i < 5; ++i) {
    driver.queue(kRx).add({{buffer, 1600, true}});
    driver.kick(kRx);
    ASSERT_TRUE(driver.queue(kRx).take_used());
    EXPECT_EQ(driver.text(buffer + 12, 7), "frame " + std::to_string(i));
  }
}

TEST_F(NetTest, AFullWireMakesTheDriverWaitAndLosesNothing) {
  attach();
  int sent = 0;
  const auto put = [&] {
    const std::string bytes = frame("frame " + std::to_string(sent++) + std::string(1400, '.'));
    driver.queue(kTx).add({{driver.place(bytes), static_cast<uint32_t>(bytes.size()), false}});
    driver.kick(kTx);
    return driver.queue(kTx).take_used().has_value();
  };
  while (sent < 2000 && put()) continue;
  ASSERT_LT(sent, 2000) << "the wire is never full";
  EXPECT_FALSE(put());
  for (int i = 0; i < sent; ++i) {
    std::string bytes = to_wire();
    for (int turn = 0; bytes.empty() && turn < 10; ++turn) {
      must(loop->run_once(0));
      bytes = to_wire();
    }
    ASSERT_EQ(bytes.substr(12, bytes.find('.') - 12), "frame " + std::to_string(i));
  }
  EXPECT_TRUE(driver.queue(kTx).take_used());
  EXPECT_TRUE(driver.queue(kTx).take_used());
  EXPECT_EQ(net->dropped_frames(), 0U);
}

TEST_F(NetTest, AWireThatIsGoneDropsAndCounts) {
  attach();
  wire.reset();
  transmit(frame("lost"));
  EXPECT_EQ(net->dropped_frames(), 1U);
  EXPECT_FALSE(driver.needs_reset());
}

TEST_F(NetTest, RuntFrameNeedsReset) {
  driver.queue(kTx).add({{driver.allocate(16), 11, false}});
  driver.kick(kTx);
  EXPECT_TRUE(driver.needs_reset());
}

TEST_F(NetTest, TinyRxBufferNeedsReset) {
  attach();
  driver.queue(kRx).add({{driver.allocate(16), 11, true}});
  driver.take_interrupt();
  from_wire("in");
  EXPECT_TRUE(driver.needs_reset()) << "the driver hears of it without another kick";
  EXPECT_EQ(driver.take_interrupt() & 2, 2U);
  from_wire("more");
  driver.kick(kRx);
  EXPECT_EQ(machine.transport->errors(), 1U);
  driver.start(8);
  EXPECT_FALSE(driver.needs_reset());
  driver.queue(kRx).add({{driver.allocate(1600), 1600, true}});
  driver.kick(kRx);
  EXPECT_TRUE(driver.queue(kRx).take_used()) << "after its reset the device goes on with the frames that waited";
}

TEST_F(NetTest, OversizedFrameIsDropped) {
  attach();
  const Gpa big = driver.allocate(100'000);
  driver.queue(kTx).add({{big, 100'000, false}});
  driver.kick(kTx);
  EXPECT_TRUE(driver.queue(kTx).take_used());
  EXPECT_EQ(net->dropped_frames(), 1U);
}

TEST_F(NetTest, AttachChecksItsDescriptor) {
  EXPECT_FALSE(net->attach(must(create_memfd("not a tap"))));
  EXPECT_FALSE(net->attach(must(open_file("/dev/null", O_RDWR))));
  EXPECT_FALSE(net->link_up());
  attach();
  const Status again = net->attach(must(wire.duplicate()));
  ASSERT_FALSE(again);
  EXPECT_TRUE(again.error().is(Errc::kInvalidArgument));
}

TEST_F(NetTest, SnapshotKeepsTheAddressAndRefusesALiveLink) {
  const TransportState state = must(machine.transport->save());
  auto device = std::make_unique<Net>(*loop, MacAddress{});
  Net* restored = device.get();
  MmioTransport other(std::move(device), *machine.memory, must(EventFd::create()), must(EventFd::create()));
  must(other.restore(state));
  MacAddress mac;
  restored->read_config(0, std::as_writable_bytes(std::span(mac)));
  EXPECT_EQ(mac, kMac);
  attach();
  MmioTransport refusing(std::make_unique<Net>(*loop, MacAddress{}), *machine.memory, must(EventFd::create()),
                         must(EventFd::create()));
  EXPECT_FALSE(refusing.restore(must(machine.transport->save())));
}

}  // namespace
}  // namespace granary::virtio
