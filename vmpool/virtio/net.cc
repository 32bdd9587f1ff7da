// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/net.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "vmpool/virtio/config_space.h"

namespace granary::virtio {
namespace {

constexpr uint16_t kRx = 0;
constexpr uint16_t kTx = 1;
constexpr std::array<uint16_t, 2> kQueueSizes = {256, 256};
// linux/virtio_net.h is not C++ (a field is named "class"), so its numbers stand here: 5.1.3, 5.1.4, 5.1.6.
constexpr uint64_t kFeatureMtu = 1ULL << 3;
constexpr uint64_t kFeatureMac = 1ULL << 5;
constexpr uint64_t kFeatureStatus = 1ULL << 16;
constexpr uint16_t kStatusLinkUp = 1;
struct NetConfig {
  MacAddress mac;
  uint16_t status;
  uint16_t max_virtqueue_pairs;
  uint16_t mtu;
};
static_assert(sizeof(NetConfig) == 12);
constexpr size_t kHeaderBytes = 12;  // with num_buffers, as VIRTIO_F_VERSION_1 wants
constexpr size_t kNumBuffersOffset = 10;
constexpr size_t kMaxFrameBytes = kHeaderBytes + 14 + 65535;
constexpr size_t kMaxSegments = 64;
// Frames received per turn of the loop.
constexpr int kReceiveBatch = 64;

// A tap's vnet header length is set here, so that both sides agree; a socket has none to set.
Status prepare_tap(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return Error::last_os_error("fstat of a tap");
  if (S_ISSOCK(st.st_mode)) return ok();
  if (!S_ISCHR(st.st_mode)) return Error(Errc::kInvalidArgument, "net device: neither a tap nor a socket");
  const int header_bytes = static_cast<int>(kHeaderBytes);
  if (::ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) != 0) {
    return Error::last_os_error("net device: TUNSETVNETHDRSZ (was the tap made with IFF_VNET_HDR?)");
  }
  // No offload was negotiated, so the tap must neither leave checksums to the guest nor merge segments.
  if (::ioctl(fd, TUNSETOFFLOAD, 0) != 0) return Error::last_os_error("net device: TUNSETOFFLOAD");
  return ok();
}

}  // namespace

Net::Net(EventLoop& loop, const MacAddress& mac, uint16_t mtu)
    : loop_(loop), mac_(mac), mtu_(mtu), alive_(std::make_shared<int>(0)) {}

Net::~Net() { loop_.remove(watch_); }

uint64_t Net::features() const { return kFeatureMac | kFeatureStatus | kFeatureMtu; }

std::span<const uint16_t> Net::queue_sizes() const { return kQueueSizes; }

void Net::read_config(uint32_t offset, std::span<std::byte> into) const {
  const NetConfig config{mac_, link_up() ? kStatusLinkUp : uint16_t{0}, 0, mtu_};
  read_config_struct(config, offset, into);
}

Status Net::attach(Fd tap) {
  if (tap_.valid()) return Error(Errc::kInvalidArgument, "net device: the slot already has a tap");
  GRANARY_TRY(prepare_tap(tap.get()));
  GRANARY_TRY(set_nonblocking(tap.get()));
  // Edge-triggered: a tap with frames that the driver has no buffers for must not keep the loop awake.
  watch_ = GRANARY_TRY(loop_.add(tap.get(), EPOLLIN | EPOLLET, [this](uint32_t) {
    readable_ = true;
    tap_readable();
  }));
  tap_ = std::move(tap);
  readable_ = true;
  return ok();
}

Status Net::activate(uint64_t /*features*/, std::span<Queue> queues, Interrupt& interrupt) {
  queues_ = queues;
  interrupt_ = &interrupt;
  failed_ = false;
  return ok();
}

void Net::deactivate() {
  queues_ = {};
  interrupt_ = nullptr;
}

Status Net::process_queue(uint16_t index) {
  if (failed_) return Error(Errc::kDeviceInvalid, "net: the rx ring was unusable when a frame had come");
  if (index == kRx) return receive_frames();
  Status done = for_each_chain(queues_[kTx], [this](Chain chain) { return transmit(std::move(chain)); });
  if (queues_[kTx].should_interrupt()) interrupt_->used_buffer();
  return done;
}

Status Net::transmit(Chain chain) {
  const size_t bytes = chain.readable_left();
  if (bytes < kHeaderBytes) return Error(Errc::kDeviceInvalid, "net: a frame shorter than its header");
  std::array<iovec, kMaxSegments> storage;
  const std::span<iovec> segments = chain.next_readable(storage, bytes);
  if (!tap_.valid() || bytes > kMaxFrameBytes || chain.segment_count() > kMaxSegments) {
    if (tap_.valid()) ++dropped_frames_;
    return ok();
  }
  // The tap checks the header, which the guest can change at any time, itself. A full or downed tap drops, as a wire
  // does.
  if (::writev(tap_.get(), segments.data(), static_cast<int>(segments.size())) < 0) ++dropped_frames_;
  return ok();
}

Status Net::receive_frames() {
  if (queues_.empty() || !tap_.valid()) return ok();
  Queue& rx = queues_[kRx];
  int received = 0;
  for (; readable_ && received < kReceiveBatch; ++received) {
    std::optional<Chain> chain = GRANARY_TRY(rx.pop());
    if (!chain) break;
    std::array<iovec, kMaxSegments> storage;
    const std::span<iovec> segments = chain->next_writable(storage, kMaxFrameBytes);
    if (chain->writable_left() < kHeaderBytes)
      return Error(Errc::kDeviceInvalid, "net: rx buffer shorter than a header");
    const ssize_t n = ::readv(tap_.get(), segments.data(), static_cast<int>(segments.size()));
    if (n < static_cast<ssize_t>(kHeaderBytes)) {
      // No frame (a header alone is none); any error but "none" ends the reading until the next event.
      rx.put_back(*std::move(chain));
      readable_ = n > 0;
      continue;
    }
    chain->skip_writable(static_cast<size_t>(n));
    const uint16_t one_buffer = 1;  // 5.1.6.4.1: without MRG_RXBUF num_buffers is 1
    chain->patch(kNumBuffersOffset, std::as_bytes(std::span(&one_buffer, 1)));
    chain->complete();
  }
  if (rx.should_interrupt()) interrupt_->used_buffer();
  if (received == kReceiveBatch) {
    loop_.post([this, alive = std::weak_ptr(alive_)] {
      if (!alive.expired()) tap_readable();
    });
  }
  return ok();
}

void Net::tap_readable() {
  if (failed_) return;
  const Status received = receive_frames();
  failed_ = !received;
  if (failed_) interrupt_->fail(received.error());
}

DeviceBlob Net::save() const { return to_blob(NetState{mac_, mtu_, static_cast<uint16_t>(link_up() ? 1 : 0), 0}); }

Status Net::restore(const DeviceBlob& state) {
  const auto saved = GRANARY_TRY(from_blob<NetState>(state, "net"));
  // A template is made without taps: the driver has seen the link down and learns of a tap by an interrupt.
  if (saved.link_up != 0 || saved.reserved != 0) return Error(Errc::kSnapshotCorrupt, "net state: link up");
  mac_ = saved.mac;
  mtu_ = saved.mtu;
  return ok();
}

}  // namespace granary::virtio
