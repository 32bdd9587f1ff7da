// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <string>

#include "tests/guest/vsock_device.h"
#include "tests/guest/wire.h"
#include "vmpool/base/machine_layout.h"
#include "vmpool/virtio/mmio_transport.h"
#include "vmpool/virtio/vsock.h"

// The tiny guest's driver against the VMM's own vsock device, in one process and without KVM: every register access and
// every ring is real, the virtual CPU is this test.
namespace granary {
namespace {

constexpr uint64_t kDriverAddress = 0x10'0000;

struct Stream {
  Fd host;
  Fd device;
};

Stream create_stream() {
  int fds[2] = {-1, -1};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

class TinyDriver : public testing::Test {
 protected:
  void SetUp() override {
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop) << loop.error().message();
    loop_ = *std::move(loop);
    auto memory = GuestMemory::create(4 * kMiB);
    ASSERT_TRUE(memory) << memory.error().message();
    memory_ = std::make_unique<GuestMemory>(*std::move(memory));
    create_transport();
    driver_ = new (memory_->mapping().data() + kDriverAddress) tiny_device{};
    driver_->bus.context = this;
    driver_->bus.memory = reinterpret_cast<uintptr_t>(memory_->mapping().data());
    driver_->bus.read = [](void* self, uint32_t offset) {
      uint32_t value = 0;
      static_cast<TinyDriver*>(self)->access(offset, false, value);
      return value;
    };
    driver_->bus.write = [](void* self, uint32_t offset, uint32_t value) {
      static_cast<TinyDriver*>(self)->access(offset, true, value);
    };
  }

  void create_transport() {
    auto device = virtio::Vsock::create(*loop_, machine::kVsockGuestCid, Fd());
    auto irq = EventFd::create();
    auto kick = EventFd::create();
    ASSERT_TRUE(device && irq && kick);
    vsock_ = device->get();
    transport_ =
        std::make_unique<virtio::MmioTransport>(*std::move(device), *memory_, *std::move(irq), *std::move(kick));
  }

  void access(uint32_t offset, bool is_write, uint32_t& value) {
    const auto data = std::as_writable_bytes(std::span(&value, 1));
    if (transport_->fast_access(offset, is_write, data)) return;
    is_write ? transport_->write(offset, data) : transport_->read(offset, data);
  }

  // One turn of guest, device and event loop.
  void turn() {
    EXPECT_EQ(tiny_device_poll(driver_), TINY_GO_ON);
    transport_->process_kicks();
    ASSERT_TRUE(loop_->run_once(0));
  }

  Fd connect(uint32_t port) {
    Stream stream = create_stream();
    const Status adopted = vsock_->adopt(std::move(stream.device), port);
    EXPECT_TRUE(adopted) << adopted.error().message();
    return std::move(stream.host);
  }

  // What the guest has answered after a bounded number of turns, `wanted` bytes if it can be; "EOF" at the end.
  std::string read(const Fd& host, size_t wanted) {
    std::string bytes;
    char buffer[512];
    for (int i = 0; i < 200 && bytes.size() < wanted; ++i) {
      turn();
      const ssize_t n = ::read(host.get(), buffer, sizeof(buffer));
      if (n == 0) return bytes + "EOF";
      if (n > 0) bytes.append(buffer, static_cast<size_t>(n));
    }
    return bytes;
  }

  static void write(const Fd& host, const std::string& bytes) {
    ASSERT_EQ(::write(host.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<virtio::MmioTransport> transport_;
  virtio::Vsock* vsock_ = nullptr;
  tiny_device* driver_ = nullptr;
};

std::string ready(uint64_t nonce) {
  return wire::framed(wire::bytes_field(1, wire::varint_field(1, nonce) + wire::varint_field(2, 1)));
}

TEST_F(TinyDriver, StartsTheDevice) {
  EXPECT_EQ(tiny_device_start(driver_), nullptr);
  EXPECT_EQ(driver_->vsock.cid, machine::kVsockGuestCid);
  EXPECT_EQ(transport_->errors(), 0U);
}

TEST_F(TinyDriver, AnswersProbeAndIdentity) {
  ASSERT_EQ(tiny_device_start(driver_), nullptr);
  const Fd host = connect(machine::kInitVsockPort);
  write(host, wire::framed(wire::probe(42)));
  EXPECT_EQ(read(host, ready(42).size()), ready(42));
  const std::string uuid = "0123456789abcdef";
  write(host, wire::framed(wire::identity(uuid, std::string(32, 'e'), 77)));
  const std::string applied =
      wire::framed(wire::bytes_field(2, wire::bytes_field(1, uuid) + wire::varint_field(3, 77)));
  EXPECT_EQ(read(host, applied.size()), applied);
  EXPECT_EQ(transport_->errors(), 0U);
}

TEST_F(TinyDriver, ServesManyRequestsOnManyConnections) {
  ASSERT_EQ(tiny_device_start(driver_), nullptr);
  std::vector<Fd> hosts;
  for (int i = 0; i < TINY_CONNECTIONS; ++i) hosts.push_back(connect(machine::kInitVsockPort));
  for (uint64_t round = 0; round < 200; ++round) {  // far more packets than a ring or a credit window holds
    for (const Fd& host : hosts) write(host, wire::framed(wire::probe(round)));
    for (const Fd& host : hosts) ASSERT_EQ(read(host, ready(round).size()), ready(round)) << "round " << round;
  }
  EXPECT_EQ(transport_->errors(), 0U);
}

TEST_F(TinyDriver, ALargeRequestIsRefusedNotStuck) {
  ASSERT_EQ(tiny_device_start(driver_), nullptr);
  const Fd host = connect(machine::kInitVsockPort);
  write(host, wire::framed(wire::bytes_field(3, std::string(100'000, 'a'))));
  EXPECT_NE(read(host, 40).find("request too long"), std::string::npos);
  write(host, wire::framed(wire::probe(1)));
  EXPECT_EQ(read(host, ready(1).size()), ready(1));
}

TEST_F(TinyDriver, RefusesOtherPorts) {
  ASSERT_EQ(tiny_device_start(driver_), nullptr);
  const Fd host = connect(22);
  EXPECT_EQ(read(host, 1), "EOF");
}

TEST_F(TinyDriver, IsQuiescentAgainAfterTheHostLeft) {
  ASSERT_EQ(tiny_device_start(driver_), nullptr);
  EXPECT_TRUE(vsock_->quiescent());
  {
    const Fd host = connect(machine::kInitVsockPort);
    write(host, wire::framed(wire::probe(1)));
    EXPECT_EQ(read(host, ready(1).size()), ready(1));
  }
  for (int i = 0; i < 20; ++i) turn();
  EXPECT_EQ(vsock_->open_connections(), 0U);
  EXPECT_TRUE(vsock_->quiescent());
}

// A snapshot of the device, taken at the quiescent point, carries on under a new transport: the driver notices nothing.
TEST_F(TinyDriver, SurvivesARestoreOfItsDevice) {
  ASSERT_EQ(tiny_device_start(driver_), nullptr);
  turn();
  const auto state = transport_->save();
  ASSERT_TRUE(state) << state.error().message();
  create_transport();
  const Status restored = transport_->restore(*state);
  ASSERT_TRUE(restored) << restored.error().message();
  const Fd host = connect(machine::kInitVsockPort);
  write(host, wire::framed(wire::probe(8)));
  EXPECT_EQ(read(host, ready(8).size()), ready(8));
}

}  // namespace
}  // namespace granary
