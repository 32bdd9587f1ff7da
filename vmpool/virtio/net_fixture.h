// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "vmpool/virtio/fake_driver.h"
#include "vmpool/virtio/net.h"

namespace granary::virtio {

inline constexpr MacAddress kMac = {2, 0, 0, 0, 0, 7};
inline constexpr uint16_t kRx = 0;
inline constexpr uint16_t kTx = 1;

// A net device and its driver; a seqpacket socket stands for the tap: it keeps frame boundaries, too.
class NetTest : public testing::Test {
 protected:
  NetTest()
      : loop(must(EventLoop::create())),
        net(new Net(*loop, kMac)),
        machine(std::unique_ptr<Device>(net)),
        driver(*machine.driver) {
    driver.start(8);
  }
  void attach() {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    wire = Fd(fds[0]);
    must(net->attach(Fd(fds[1])));
    machine.transport->notify_config_change();
  }
  static std::string frame(std::string_view payload, const NetHeader& header = {}) {
    return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + std::string(payload);
  }
  void from_wire(std::string_view payload, const NetHeader& header = {}) {
    const std::string bytes = frame(payload, header);
    ASSERT_EQ(::send(wire.get(), bytes.data(), bytes.size(), MSG_DONTWAIT), static_cast<ssize_t>(bytes.size()));
    must(loop->run_once(0));
  }
  std::string to_wire() {
    std::string bytes(70'000, '\0');
    const ssize_t n = ::recv(wire.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    bytes.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return bytes;
  }
  void transmit(std::string_view bytes) {
    driver.queue(kTx).add({{driver.place(bytes), static_cast<uint32_t>(bytes.size()), false}});
    driver.kick(kTx);
    EXPECT_TRUE(driver.queue(kTx).take_used());
  }
  Gpa add_buffer(uint32_t bytes) {
    const Gpa buffer = driver.allocate(bytes);
    driver.queue(kRx).add({{buffer, bytes, true}});
    driver.kick(kRx);
    return buffer;
  }
  [[nodiscard]] NetHeader header_at(Gpa at) const {
    NetHeader header;
    std::memcpy(&header, driver.bytes(at, sizeof(header)).data(), sizeof(header));
    return header;
  }

  std::unique_ptr<EventLoop> loop;
  Net* net;
  FakeMachine machine;
  FakeDriver& driver;
  Fd wire;
};

}  // namespace granary::virtio
