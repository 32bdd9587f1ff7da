// SPDX-License-Identifier: Apache-2.0
// A tiny guest that sends frames back, wired into a namespace as a pod is: veth, redirect, tap, net device. Runs on any
// /dev/kvm.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <numeric>
#include <thread>

#include "netplumb/attach.h"
#include "netplumb/netns.h"
#include "netplumb/test_netns.h"
#include "tests/integration/frame_socket.h"
#include "vmpool/pool/guest_client.h"
#include "vmpool/pool/test_bench.h"

namespace granary::integration {
namespace {

using netplumb::TestNetns;

constexpr int kPatienceMs = 60'000;
// The largest that a tap has: 65535 less an Ethernet header.
constexpr size_t kMtu = 65'521;
constexpr size_t kEthernetHeader = 14;
// Fewer than a tap holds (txqueuelen 1000): none may be lost.
constexpr uint64_t kFramesThatWait = 900;
constexpr uint16_t kIpv4 = 0x0800;

pool::SteadyTime in_time() { return pool::SteadyClock::now() + std::chrono::milliseconds(kPatienceMs); }

class EchoGuestTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!pod_.valid()) GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    ASSERT_EQ(pod_.run("ip link add eth0 mtu 65521 type veth peer name host0 mtu 65521 netns " + host_.name() +
                       "; sysctl -qw net.ipv6.conf.eth0.accept_dad=0; ip addr add 10.20.0.2/24 dev eth0;"
                       "ip link set eth0 up"),
              0);
    ASSERT_EQ(host_.run("ip link set host0 up"), 0);
    Result<netplumb::Attachment> wired = netplumb::attach(pod_.fd(), pod_.path(), 1);
    ASSERT_TRUE(wired) << wired.error().message();
    pool::PoolSettings settings = bench_.settings();
    settings.source = {
        .kernel_path = GRANARY_GUEST_DIR "/tiny-vsock.elf", .initramfs_path = "", .command_line = "echo"};
    settings.shape.memory_bytes = 16 * kMiB;
    settings.shape.devices = {
        .net_slots = 1, .block_slots = 0, .entropy = 1, .console = 1, .balloon = 1, .fs = 0, .reserved = {}};
    settings.size = 1;
    Result<std::unique_ptr<pool::Pool>> pool = pool::Pool::start(settings, bench_.resources());
    ASSERT_TRUE(pool) << pool.error().message();
    pool_ = *std::move(pool);
    Result<pool::CloneInfo> clone = pool_->acquire({}, in_time(), {.taps = std::move(wired->taps)});
    ASSERT_TRUE(clone) << clone.error().message();
    clone_ = *std::move(clone);
    socket_ = open(FrameSocket::kExperiment);
  }
  void TearDown() override {
    if (clone_.id.empty()) return;
    EXPECT_TRUE(*pool_->release(clone_.id));
  }
  // On the host's end of the veth pair.
  std::unique_ptr<FrameSocket> open(uint16_t ether_type) {
    std::unique_ptr<FrameSocket> opened;
    EXPECT_TRUE(netplumb::in_netns(host_.fd(), [&]() -> Status {
      opened = std::make_unique<FrameSocket>(GRANARY_TRY(FrameSocket::open("host0", ether_type)));
      return ok();
    }));
    return opened;
  }
  void send(size_t bytes, uint64_t number) const {
    const Status sent = socket_->send(numbered_frame(bytes, number));
    ASSERT_TRUE(sent) << sent.error().message();
  }
  std::string receive(int timeout_ms = kPatienceMs) {
    const Result<std::optional<std::string>> frame = socket_->receive(timeout_ms);
    EXPECT_TRUE(frame) << frame.error().message();
    return frame && *frame ? **frame : "";
  }
  // Of the VMM's own: what it shares with the template or has of the guest counts, too.
  [[nodiscard]] uint64_t resident_bytes() const {
    uint64_t size = 0;
    uint64_t resident = 0;
    std::ifstream("/proc/" + std::to_string(clone_.vmm_pid) + "/statm") >> size >> resident;
    return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  }

  const TestNetns pod_{"echo-pod"};
  const TestNetns host_{"echo-host"};
  pool::TestBench bench_{GRANARY_VMM, "/dev/kvm"};
  std::unique_ptr<pool::Pool> pool_;
  pool::CloneInfo clone_;
  std::unique_ptr<FrameSocket> socket_;
};

TEST_F(EchoGuestTest, FramesOfEverySizeComeBackAsTheyWere) {
  std::vector<size_t> sizes(1514 - 60 + 1);
  std::iota(sizes.begin(), sizes.end(), 60);
  for (const size_t size : {4096U, 9014U, 16'384U, 32'769U, 65'000U}) sizes.push_back(size);
  sizes.push_back(kMtu + kEthernetHeader);
  uint64_t number = 0;
  for (const size_t size : sizes) {
    send(size, ++number);
    ASSERT_TRUE(receive() == numbered_frame(size, number)) << size << " bytes";
  }
}

// A packet of nearly 64 KiB that the kernel would segment for a wire passes tap and guest in one piece.
TEST_F(EchoGuestTest, APacketToBeSegmentedComesBackWhole) {
  socket_ = open(kIpv4);
  constexpr size_t kBytes = kEthernetHeader + 65'000;
  std::string packet = numbered_frame(kBytes, 7, kIpv4);
  const std::string headers(
      "\x45\0\xfd\xe8\0\0\x40\0\x40\x06\0\0\x0a\x14\0\x01\x0a\x14\0\x02"  // IPv4, TCP
      "\x10\0\x20\0\0\0\0\x01\0\0\0\x01\x50\x10\xff\xff\0\0\0\0",
      40);
  packet.replace(kEthernetHeader, headers.size(), headers);
  const FrameOffload segments{.flags = 1,     // VIRTIO_NET_HDR_F_NEEDS_CSUM
                              .gso_type = 1,  // VIRTIO_NET_HDR_GSO_TCPV4
                              .hdr_len = kEthernetHeader + 40,
                              .gso_size = 1460,
                              .csum_start = kEthernetHeader + 20,
                              .csum_offset = 16};
  for (int round = 0; round < 40; ++round) {
    const Status sent = socket_->send(packet, segments);
    ASSERT_TRUE(sent) << sent.error().message();
    FrameOffload offload;
    const Result<std::optional<std::string>> back = socket_->receive(kPatienceMs, &offload);
    ASSERT_TRUE(back && *back);
    ASSERT_TRUE(**back == packet) << (*back)->size() << " bytes";
    EXPECT_EQ(offload.gso_type, segments.gso_type);
    EXPECT_EQ(offload.gso_size, segments.gso_size);
    EXPECT_EQ(offload.csum_start, segments.csum_start);
  }
}

TEST_F(EchoGuestTest, FramesWaitForAGuestThatDoesNotRun) {
  ASSERT_EQ(::kill(clone_.vmm_pid, SIGSTOP), 0);
  for (uint64_t i = 0; i < kFramesThatWait; ++i) send(60 + i, i);
  ASSERT_EQ(::kill(clone_.vmm_pid, SIGCONT), 0);
  for (uint64_t i = 0; i < kFramesThatWait; ++i) ASSERT_TRUE(receive() == numbered_frame(60 + i, i)) << i;
}

// The host's queue drops what the guest cannot take; what comes back is whole and in order, the VMM does not grow, and
// its other devices answer meanwhile: vsock here.
TEST_F(EchoGuestTest, AFloodNeitherGrowsTheVmmNorHoldsUpOtherDevices) {
  send(kMtu, 1);
  receive();
  const uint64_t before = resident_bytes();
  std::atomic<uint64_t> sent = 0;
  std::jthread flood([&](const std::stop_token& stop) {
    while (!stop.stop_requested() || sent < 20'000) {
      send(sent % 16 == 0 ? kMtu : 1514, sent + 2);
      ++sent;
    }
  });
  for (int i = 0; i < 20; ++i) {
    const uint64_t at_start = sent;
    Result<pool::GuestClient> guest = pool::GuestClient::connect(clone_.socket_path, in_time());
    ASSERT_TRUE(guest) << guest.error().message();
    const Status answered = guest->probe(in_time());
    ASSERT_TRUE(answered) << answered.error().message();
    while (sent == at_start) std::this_thread::yield();
  }
  flood.request_stop();
  flood.join();
  const uint64_t last_number = sent + 2;
  uint64_t last = 0;
  uint64_t back = 0;
  for (std::string frame = receive(0); !frame.empty(); frame = receive(0), ++back) {
    const uint64_t number = number_of(frame);
    ASSERT_GT(number, last);
    ASSERT_TRUE(frame == numbered_frame(frame.size(), number));
    last = number;
  }
  for (std::string frame = "x"; last != last_number && !frame.empty();) {
    send(60, last_number);
    frame = receive();
    ASSERT_GT(number_of(frame), last);
    last = number_of(frame);
    ++back;
  }
  EXPECT_EQ(last, last_number) << "the card goes on after the flood";
  EXPECT_GE(back, kFramesThatWait) << "what a tap holds is not lost";
  EXPECT_LT(resident_bytes(), before + 2 * kMiB) << "before: " << before;
  std::printf("%lu frames sent, %lu came back\n", sent.load(), back);
}

}  // namespace
}  // namespace granary::integration
