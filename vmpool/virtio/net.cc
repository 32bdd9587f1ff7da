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
#include "vmpool/virtio/net_offload.h"

namespace granary::virtio {
namespace {

constexpr uint16_t kRx = 0;
constexpr uint16_t kTx = 1;
constexpr std::array<uint16_t, 2> kQueueSizes = {256, 256};

constexpr uint16_t kStatusLinkUp = 1;
struct NetConfig {
  MacAddress mac;
  uint16_t status;
};
static_assert(sizeof(NetConfig) == 8);

constexpr size_t kMaxFrameBytes = 14 + 4 + 65535;  // Ethernet with a VLAN tag, and the largest IP packet
// A chain has at most as many segments as its queue has descriptors; one more is the header and one what overflows.
constexpr size_t kMaxSegments = 256 + 2;
// TUNSETOFFLOAD takes the lock of all the host's network configuration: a guest that resets its driver for ever must
// not.
constexpr unsigned kMaxOffloadChanges = 64;

// A tap's vnet header length is set here, so that both sides agree; a socket has none to set.
Result<bool> prepare_tap(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return Error::last_os_error("fstat of a tap");
  if (S_ISSOCK(st.st_mode)) return false;
  if (!S_ISCHR(st.st_mode)) return Error(Errc::kInvalidArgument, "net device: neither a tap nor a socket");
  const int header_bytes = sizeof(NetHeader);
  if (::ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) != 0) {
    return Error::last_os_error("net device: TUNSETVNETHDRSZ (was the tap made with IFF_VNET_HDR?)");
  }
  return true;
}

}  // namespace

struct Net::Budget {
  int frames = 64;
  size_t bytes = 512 * 1024;
  [[nodiscard]] bool left() const { return frames > 0 && bytes > 0; }
  void take(size_t frame_bytes) {
    --frames;
    bytes -= std::min(bytes, frame_bytes);
  }
};

Net::Net(EventLoop& loop, const MacAddress& mac) : loop_(loop), mac_(mac), alive_(std::make_shared<int>(0)) {}

Net::~Net() { loop_.remove(watch_); }

uint64_t Net::features() const {
  return net::kCsum | net::kGuestCsum | net::kMac | net::kGuestTso4 | net::kGuestTso6 | net::kGuestEcn |
         net::kHostTso4 | net::kHostTso6 | net::kHostEcn | net::kMergeBuffers | net::kStatus;
}

std::span<const uint16_t> Net::queue_sizes() const { return kQueueSizes; }

void Net::read_config(uint32_t offset, std::span<std::byte> into) const {
  read_config_struct(NetConfig{mac_, link_up() ? kStatusLinkUp : uint16_t{0}}, offset, into);
}

Status Net::attach(Fd tap) {
  if (tap_.valid()) return Error(Errc::kInvalidArgument, "net device: the slot already has a tap");
  is_tap_ = GRANARY_TRY(prepare_tap(tap.get()));
  GRANARY_TRY(set_nonblocking(tap.get()));
  tap_offloads_ = net::tap_offloads_of(features_);
  if (is_tap_ && ::ioctl(tap.get(), TUNSETOFFLOAD, tap_offloads_) != 0) {
    return Error::last_os_error("net device: TUNSETOFFLOAD");
  }
  overflow_.resize(kMaxFrameBytes + 1);
  // Edge-triggered: a tap with frames that the driver has no buffers for must not keep the loop awake.
  watch_ =
      GRANARY_TRY(loop_.add(tap.get(), EPOLLIN | EPOLLOUT | EPOLLET, [this](uint32_t events) { tap_ready(events); }));
  tap_ = std::move(tap);
  readable_ = true;
  return ok();
}

Status Net::set_tap_offloads() {
  const unsigned wanted = net::tap_offloads_of(features_);
  if (!tap_.valid() || wanted == tap_offloads_) return ok();
  if (++offload_changes_ > kMaxOffloadChanges) {
    return Error(Errc::kDeviceInvalid, "net: the driver changed its offloads too often");
  }
  if (is_tap_ && ::ioctl(tap_.get(), TUNSETOFFLOAD, wanted) != 0) return Error::last_os_error("net: TUNSETOFFLOAD");
  tap_offloads_ = wanted;
  return ok();
}

Status Net::activate(uint64_t features, std::span<Queue> queues, Interrupt& interrupt) {
  GRANARY_TRY(net::check_features(features));
  features_ = features;
  GRANARY_TRY(set_tap_offloads());
  queues_ = queues;
  interrupt_ = &interrupt;
  failed_ = false;
  return ok();
}

void Net::deactivate() {
  queues_ = {};
  interrupt_ = nullptr;
  waits_for_tap_ = false;
  if (frame_bytes_ != 0) drop_frame();
  buffers_.clear();
  room_ = 0;
}

Status Net::process_queue(uint16_t index) {
  if (failed_) return Error(Errc::kDeviceInvalid, "net: a ring was unusable when the tap was ready");
  return index == kRx ? receive_frames() : transmit_frames();
}

Status Net::transmit_frames() {
  if (queues_.empty()) return ok();
  Queue& tx = queues_[kTx];
  waits_for_tap_ = false;
  Budget budget;
  while (budget.left()) {
    std::optional<Chain> chain = GRANARY_TRY(tx.pop());
    if (!chain) break;
    budget.take(chain->readable_left());
    if (GRANARY_TRY(transmit(*chain)) == Sent::kDone) continue;
    tx.put_back(*std::move(chain));
    waits_for_tap_ = true;
    break;
  }
  if (!budget.left()) go_on_later();
  if (tx.should_interrupt()) interrupt_->used_buffer();
  return ok();
}

// The tap checks the numbers in the header itself. It gives EAGAIN only where whoever made it gave it a limit
// (TUNSETSNDBUF); without one the host's queues drop what they cannot take, as a wire does. A downed tap gives EIO.
Result<Net::Sent> Net::transmit(Chain& chain) {
  // A copy: the guest could change what was checked.
  NetHeader header = GRANARY_TRY(chain.read_struct<NetHeader>("a net header"));
  if (!tap_.valid()) return Sent::kDone;
  std::array<iovec, kMaxSegments> segments;
  segments[0] = {&header, sizeof(header)};
  const size_t bytes = chain.readable_left();
  const size_t count = 1 + chain.next_readable(std::span(segments).subspan(1), bytes).size();
  header.flags &= net::kNeedsCsum;
  header.num_buffers = 0;
  if (bytes > kMaxFrameBytes || !net::may_pass(header, features_, net::kFromDriver)) {
    ++dropped_frames_;
    return Sent::kDone;
  }
  if (::writev(tap_.get(), segments.data(), static_cast<int>(count)) >= 0) return Sent::kDone;
  if (errno == EAGAIN) return Sent::kWait;
  ++dropped_frames_;
  return Sent::kDone;
}

Status Net::receive_frames() {
  if (queues_.empty() || !tap_.valid()) return ok();
  Budget budget;
  while (budget.left() && (readable_ || frame_bytes_ != 0)) {
    const size_t before = frame_bytes_;
    if (!GRANARY_TRY(receive_frame())) break;
    budget.take(std::max(before, expected_bytes_));
  }
  if (!budget.left()) go_on_later();
  if (queues_[kRx].should_interrupt()) interrupt_->used_buffer();
  return ok();
}

Result<bool> Net::receive_frame() {
  if (frame_bytes_ == 0) {
    // Its length shows when it is read: what does not fit into these buffers overflows.
    (void)GRANARY_TRY(gather(expected_bytes_));
    if (buffers_.empty() || !read_frame()) return false;
    expected_bytes_ = frame_bytes_;
    if (frame_bytes_ == 0) return true;
    if (frame_bytes_ > kMaxFrameBytes || !net::may_pass(header_, features_, net::kFromTap)) {
      drop_frame();
      return true;
    }
  }
  const bool merges = has(net::kMergeBuffers);
  if (!GRANARY_TRY(gather(frame_bytes_)) && buffers_.size() < queues_[kRx].size()) return false;
  if (room_ < frame_bytes_) {
    drop_frame();  // no buffer, or not all of them together, will ever hold it
  } else {
    fill_buffers(merges);
  }
  return true;
}

// True once there is room for so many bytes, or, without mergeable buffers, one buffer of whatever size.
Result<bool> Net::gather(size_t frame_bytes) {
  while (buffers_.empty() || (has(net::kMergeBuffers) && room_ < frame_bytes)) {
    std::optional<Chain> buffer = GRANARY_TRY(queues_[kRx].pop());
    if (!buffer) return false;
    // 5.1.6.3.1: also a buffer that is merged to another one has room for a header.
    if (buffer->writable_left() < sizeof(NetHeader)) {
      return Error(Errc::kDeviceInvalid, "net: rx buffer shorter than a header");
    }
    if (buffers_.empty()) buffer->skip_writable(sizeof(NetHeader));
    room_ += buffer->writable_left();
    buffers_.push_back(*std::move(buffer));
  }
  return true;
}

// False when there is no frame. A header alone is none either, but there may be more behind it.
bool Net::read_frame() {
  std::array<iovec, kMaxSegments> segments;
  segments[0] = {&header_, sizeof(header_)};
  size_t count = 1;
  size_t room = 0;
  for (const Chain& buffer : buffers_) {
    const std::span<iovec> free = std::span(segments).subspan(count, segments.size() - 1 - count);
    const std::span<iovec> part = buffer.next_writable(free, buffer.writable_left());
    count += part.size();
    size_t bytes = 0;
    for (const iovec& segment : part) bytes += segment.iov_len;
    room += bytes;
    if (bytes < buffer.writable_left()) break;
  }
  segments[count++] = {overflow_.data(), overflow_.size()};
  const ssize_t n = ::readv(tap_.get(), segments.data(), static_cast<int>(count));
  // Any error but "none" ends the reading until the next event, too.
  readable_ = n > 0;
  if (n <= 0) return false;
  frame_bytes_ = static_cast<size_t>(n) - std::min(static_cast<size_t>(n), sizeof(header_));
  read_into_buffers_ = std::min(frame_bytes_, room);
  return true;
}

void Net::drop_frame() {
  ++dropped_frames_;
  frame_bytes_ = 0;
}

// 5.1.6.4.1: each buffer is filled before the next one is used, and the driver sees them all at once.
void Net::fill_buffers(bool merges) {
  size_t in_place = read_into_buffers_;
  std::span<const std::byte> rest = std::span(overflow_).first(frame_bytes_ - in_place);
  size_t used = 0;
  for (size_t left = frame_bytes_; left > 0; ++used) {
    Chain& buffer = buffers_[used];
    const size_t bytes = std::min(left, buffer.writable_left());
    room_ -= buffer.writable_left();
    left -= bytes;
    const size_t there = std::min(in_place, bytes);
    buffer.skip_writable(there);
    buffer.write(rest.first(bytes - there));
    in_place -= there;
    rest = rest.subspan(bytes - there);
  }
  frame_bytes_ = 0;
  constexpr uint8_t kKnownFlags = net::kNeedsCsum | net::kDataValid;
  header_.flags &= has(net::kGuestCsum) ? kKnownFlags : uint8_t{0};
  header_.num_buffers = merges ? static_cast<uint16_t>(used) : uint16_t{1};
  buffers_.front().patch(0, std::as_bytes(std::span(&header_, 1)));
  queues_[kRx].complete_together(std::span(buffers_).first(used));
  buffers_.erase(buffers_.begin(), buffers_.begin() + static_cast<std::ptrdiff_t>(used));
  if (buffers_.empty()) return;
  buffers_.front().skip_writable(sizeof(NetHeader));
  room_ -= sizeof(NetHeader);
}

void Net::tap_ready(uint32_t events) {
  if ((events & ~uint32_t{EPOLLOUT}) != 0) readable_ = true;
  run(&Net::receive_frames);
  if (waits_for_tap_) run(&Net::transmit_frames);
}

void Net::go_on_later() {
  if (std::exchange(goes_on_later_, true)) return;
  loop_.post([this, alive = std::weak_ptr(alive_)] {
    if (alive.expired()) return;
    goes_on_later_ = false;
    run(&Net::receive_frames);
    run(&Net::transmit_frames);
  });
}

void Net::run(Status (Net::*work)()) {
  if (failed_) return;
  const Status done = (this->*work)();
  failed_ = !done;
  if (failed_) interrupt_->fail(done.error());
}

DeviceBlob Net::save() const { return to_blob(NetState{mac_, static_cast<uint16_t>(link_up() ? 1 : 0)}); }

Status Net::restore(const DeviceBlob& state) {
  const auto saved = GRANARY_TRY(from_blob<NetState>(state, "net"));
  // A template is made without taps: the driver has seen the link down and learns of a tap by an interrupt.
  if (saved.link_up != 0) return Error(Errc::kSnapshotCorrupt, "net state: link up");
  mac_ = saved.mac;
  return ok();
}

}  // namespace granary::virtio
