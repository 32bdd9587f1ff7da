// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/net.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "vmpool/virtio/fake_driver.h"

namespace granary::virtio {
namespace {

constexpr MacAddress kMac = {2, 0, 0, 0, 0, 7};
constexpr uint16_t kRx = 0;
constexpr uint16_t kTx = 1;

class NetTest : public testing::Test {
 protected:
  NetTest()
      : loop(must(EventLoop::create())),
        net(new Net(*loop, kMac, 1450)),
        machine(std::unique_ptr<Device>(net)),
        driver(*machine.driver) {
    driver.start(8);
  }
  // A seqpacket socket stands for the tap: it keeps frame boundaries, too.
  void attach() {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    wire = Fd(fds[0]);
    must(net->attach(Fd(fds[1])));
    machine.transport->notify_config_change();
  }
  static std::string frame(std::string_view payload) { return std::string(12, '\0') + std::string(payload); }
  void from_wire(std::string_view payload) {
    const std::string bytes = frame(payload);
    ASSERT_EQ(::send(wire.get(), bytes.data(), bytes.size(), MSG_DONTWAIT), static_cast<ssize_t>(bytes.size()));
    must(loop->run_once(0));
  }
  std::string to_wire() {
    std::string bytes(2000, '\0');
    const ssize_t n = ::recv(wire.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    bytes.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return bytes;
  }
  void transmit(std::string_view bytes) {
    driver.queue(kTx).add({{driver.place(bytes), static_cast<uint32_t>(bytes.size()), false}});
    driver.kick(kTx);
    EXPECT_TRUE(driver.queue(kTx).take_used());
  }

  std::unique_ptr<EventLoop> loop;
  Net* net;
  FakeMachine machine;
  FakeDriver& driver;
  Fd wire;
};

TEST_F(NetTest, ConfigShowsMacMtuAndLink) {
  EXPECT_EQ(driver.config<MacAddress>(0), kMac);
  EXPECT_EQ(driver.config<uint16_t>(6), 0);
  EXPECT_EQ(driver.config<uint16_t>(10), 1450);
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

TEST_F(NetTest, FullWireDropsAndCounts) {
  attach();
  for (int i = 0; i < 5000 && net->dropped_frames() == 0; ++i) {
    driver.queue(kTx).add({{Gpa{0x8000}, 1400, false}});
    driver.kick(kTx);
    ASSERT_TRUE(driver.queue(kTx).take_used());
  }
  EXPECT_GT(net->dropped_frames(), 0U);
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
  auto device = std::make_unique<Net>(*loop, MacAddress{}, uint16_t{0});
  Net* restored = device.get();
  MmioTransport other(std::move(device), *machine.memory, must(EventFd::create()), must(EventFd::create()));
  must(other.restore(state));
  MacAddress mac;
  restored->read_config(0, std::as_writable_bytes(std::span(mac)));
  EXPECT_EQ(mac, kMac);
  attach();
  MmioTransport refusing(std::make_unique<Net>(*loop, MacAddress{}, uint16_t{0}), *machine.memory,
                         must(EventFd::create()), must(EventFd::create()));
  EXPECT_FALSE(refusing.restore(must(machine.transport->save())));
}

}  // namespace
}  // namespace granary::virtio
