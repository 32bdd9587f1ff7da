// SPDX-License-Identifier: Apache-2.0
#include <new>

#include "tests/guest/echo_device.h"
#include "vmpool/virtio/net_fixture.h"

// The tiny guest's echo against the VMM's own net device, in one process and without KVM; a seqpacket socket is the
// wire.
namespace granary::virtio {
namespace {

constexpr uint64_t kEchoAddress = 0x10'0000;
constexpr uint64_t kBuffersAddress = 0x20'0000;

class TinyEcho : public NetTest {
 protected:
  void SetUp() override {
    driver.reset();
    std::byte* const memory = machine.memory->mapping().data();
    echo_ = new (memory + kEchoAddress) tiny_echo{};
    echo_->buffers = reinterpret_cast<uint8_t*>(memory + kBuffersAddress);
    echo_->bus.memory = reinterpret_cast<uintptr_t>(memory);
    echo_->bus.context = machine.transport.get();
    echo_->bus.read = [](void* transport, uint32_t offset) {
      uint32_t value = 0;
      access(transport, offset, false, value);
      return value;
    };
    echo_->bus.write = [](void* transport, uint32_t offset, uint32_t value) { access(transport, offset, true, value); };
    ASSERT_TRUE(tiny_echo_finds_device(&echo_->bus));
    ASSERT_EQ(tiny_echo_start(echo_), nullptr);
    attach();
  }
  static void access(void* transport, uint32_t offset, bool is_write, uint32_t& value) {
    auto& to = *static_cast<MmioTransport*>(transport);
    const auto data = std::as_writable_bytes(std::span(&value, 1));
    if (to.fast_access(offset, is_write, data)) return;
    is_write ? to.write(offset, data) : to.read(offset, data);
  }
  void turn() {
    tiny_echo_poll(echo_);
    machine.transport->process_kicks();
    must(loop->run_once(0));
  }
  std::string echo_of(const std::string& bytes) {
    EXPECT_EQ(::send(wire.get(), bytes.data(), bytes.size(), MSG_DONTWAIT), static_cast<ssize_t>(bytes.size()));
    std::string back;
    for (int i = 0; i < 20 && back.empty(); ++i) {
      turn();
      back = to_wire();
    }
    return back;
  }
  tiny_echo* echo_ = nullptr;
};

TEST_F(TinyEcho, FramesOfAllSizesComeBack) {
  for (const size_t bytes : {60U, 61U, 1514U, 9014U, 65'549U, 65'553U}) {
    for (int round = 0; round < 40; ++round) {  // more than there are buffers
      const std::string sent = frame(std::string(bytes, static_cast<char>('a' + round % 20)));
      ASSERT_TRUE(echo_of(sent) == sent) << bytes << " bytes, round " << round;
    }
  }
  EXPECT_EQ(machine.transport->errors(), 0U);
  EXPECT_EQ(net->dropped_frames(), 0U);
}

TEST_F(TinyEcho, OffloadsComeBackButForWhatADriverMustClear) {
  const NetHeader tso{.flags = 1, .gso_type = 1, .hdr_len = 54, .gso_size = 1448, .csum_start = 34, .csum_offset = 16};
  const std::string segments = frame(std::string(60'000, 's'), tso);
  EXPECT_TRUE(echo_of(segments) == segments);
  EXPECT_EQ(echo_of(frame("checked", {.flags = 2})), frame("checked"));
}

TEST_F(TinyEcho, MoreFramesThanBuffersWaitInTheWire) {
  for (int i = 0; i < 100; ++i) {
    const std::string sent = frame("frame " + std::to_string(i));
    ASSERT_EQ(::send(wire.get(), sent.data(), sent.size(), MSG_DONTWAIT), static_cast<ssize_t>(sent.size()));
  }
  for (int i = 0; i < 100; ++i) {
    std::string back;
    for (int turns = 0; turns < 20 && back.empty(); ++turns) {
      back = to_wire();
      if (back.empty()) turn();
    }
    ASSERT_EQ(back, frame("frame " + std::to_string(i)));
  }
}

}  // namespace
}  // namespace granary::virtio
