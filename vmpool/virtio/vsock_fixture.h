// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmpool/base/message_socket.h"
#include "vmpool/virtio/fake_vsock_guest.h"

namespace granary::virtio {

inline constexpr uint64_t kGuestCid = 3;

// Test code: a vsock device with a listener, a guest behind it, and host clients. Everything runs on the test's thread.
class VsockTest : public testing::Test {
 protected:
  using Packet = FakeVsockGuest::Packet;
  struct Stream {
    Fd host;
    VsockHeader request{};
  };

  VsockTest() : VsockTest(64, 4096) {}
  VsockTest(uint16_t rx_buffers, uint32_t rx_buffer_bytes)
      : loop(must(EventLoop::create())), device(make_device()), vsock(device.get()), machine(std::move(device)) {
    machine.driver->start(128);
    guest = std::make_unique<FakeVsockGuest>(*machine.driver, kGuestCid, rx_buffers, rx_buffer_bytes);
  }

  std::unique_ptr<Vsock> make_device() {
    Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // Autobind: an abstract address that no other test has.
    sockaddr_un any{};
    any.sun_family = AF_UNIX;
    EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&any), sizeof(sa_family_t)), 0);
    EXPECT_EQ(::listen(listener.get(), 200), 0);
    address_bytes = sizeof(address);
    EXPECT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &address_bytes), 0);
    VsockOptions options;
    options.max_connections = 128;
    options.timeout = std::chrono::milliseconds(200);
    return must(Vsock::create(*loop, kGuestCid, std::move(listener), options));
  }

  static SocketPair stream_pair() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    return {Fd(fds[0]), Fd(fds[1])};
  }
  Fd connect_client() {
    Fd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), address_bytes), 0);
    return client;
  }
  // Lets the device handle everything that has happened.
  void settle() {
    for (int i = 0; i < 8; ++i) {
      must(loop->run_once(0));
      machine.transport->process_kicks();
    }
  }
  template <class Condition>
  void wait_until(Condition condition) {
    while (!condition()) {
      must(loop->run_once(20));
      machine.transport->process_kicks();
    }
  }
  Packet expect_packet(uint16_t op) {
    settle();
    const std::optional<Packet> packet = guest->receive();
    EXPECT_TRUE(packet.has_value()) << "no packet, expected op " << op;
    if (!packet) return {};
    EXPECT_EQ(packet->header.op, op);
    return *packet;
  }
  // The next packet whose op is not `skipped` has this op.
  Packet expect_packet_after(uint16_t op, uint16_t skipped) {
    settle();
    for (;;) {
      std::optional<Packet> packet = guest->receive();
      EXPECT_TRUE(packet.has_value()) << "no packet, expected op " << op;
      if (!packet) return {};
      if (packet->header.op == skipped) continue;
      EXPECT_EQ(packet->header.op, op);
      return *packet;
    }
  }
  Stream open_stream(uint32_t guest_port) {
    SocketPair pair = stream_pair();
    must(vsock->adopt(std::move(pair.first), guest_port));
    Stream stream{std::move(pair.second), expect_packet(VIRTIO_VSOCK_OP_REQUEST).header};
    EXPECT_EQ(stream.request.dst_port, guest_port);
    guest->answer(stream.request, VIRTIO_VSOCK_OP_RESPONSE);
    return stream;
  }
  static void host_write(const Fd& client, std::string_view text) {
    EXPECT_EQ(::send(client.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  std::string host_read(const Fd& client, size_t limit = 65536) {
    settle();
    std::string text(limit, '\0');
    const ssize_t n = ::recv(client.get(), text.data(), text.size(), MSG_DONTWAIT);
    text.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return text;
  }
  bool host_sees_end(const Fd& client) {
    settle();
    char byte;
    const ssize_t n = ::recv(client.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    return n == 0 || (n < 0 && errno == ECONNRESET);
  }

  sockaddr_un address{};
  socklen_t address_bytes = 0;
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Vsock> device;
  Vsock* vsock;
  FakeMachine machine;
  std::unique_ptr<FakeVsockGuest> guest;
};

}  // namespace granary::virtio
