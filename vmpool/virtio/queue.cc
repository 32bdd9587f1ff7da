// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/queue.h"

#include <linux/virtio_config.h>
#define VIRTIO_RING_NO_LEGACY  // what it hides is not C++
#include <linux/virtio_ring.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cinttypes>
#include <cstdio>
#include <limits>

namespace granary::virtio {
namespace {

constexpr size_t kAvailHeader = 4;  // flags, idx
constexpr size_t kUsedHeader = 4;
constexpr size_t kUsedElement = 8;
constexpr size_t kDescriptorBytes = 16;
constexpr size_t kMaxSpareLists = 32;

std::atomic_ref<uint16_t> u16_at(std::span<std::byte> ring, size_t offset) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(ring.data() + offset));
}

Error invalid(const char* what, uint64_t value) {
  char text[120];
  std::snprintf(text, sizeof(text), "virtqueue: %s (0x%" PRIx64 ")", what, value);
  return {Errc::kDeviceInvalid, text};
}

Result<std::span<std::byte>> ring_part(const GuestMemory& memory, const char* what, Gpa at, size_t alignment,
                                       size_t bytes) {
  if (at.value % alignment != 0) return invalid(what, at.value);
  return memory.range(at, bytes);
}

size_t total(std::span<const iovec> segments) {
  size_t bytes = 0;
  for (const iovec& segment : segments) bytes += segment.iov_len;
  return bytes;
}

}  // namespace

Chain::Chain(Queue* queue, uint64_t epoch, uint16_t head, std::vector<iovec> segments, size_t readable_count)
    : queue_(queue), epoch_(epoch), head_(head), segments_(std::move(segments)) {
  const std::span<const iovec> all(segments_);
  readable_ = {0, readable_count, 0, 0, total(all.first(readable_count))};
  writable_ = {readable_count, all.size(), readable_count, 0, total(all.subspan(readable_count))};
}

Chain::Chain(Chain&& other) noexcept
    : queue_(std::exchange(other.queue_, nullptr)),
      epoch_(other.epoch_),
      head_(other.head_),
      segments_(std::move(other.segments_)),
      readable_(std::exchange(other.readable_, {})),
      writable_(std::exchange(other.writable_, {})),
      written_(other.written_) {}

Chain& Chain::operator=(Chain&& other) noexcept {
  if (this == &other) return *this;
  complete(0);
  queue_ = std::exchange(other.queue_, nullptr);
  epoch_ = other.epoch_;
  head_ = other.head_;
  segments_ = std::move(other.segments_);
  readable_ = std::exchange(other.readable_, {});
  writable_ = std::exchange(other.writable_, {});
  written_ = other.written_;
  return *this;
}

Chain::~Chain() { complete(0); }

Error Chain::too_short(const char* what, size_t wanted) {
  return {Errc::kDeviceInvalid,
          std::string("descriptor chain ends inside ") + what + " of " + std::to_string(wanted) + " bytes"};
}

std::span<iovec> Chain::describe(const Cursor& at, std::span<iovec> out, size_t limit_bytes) const {
  size_t count = 0;
  size_t offset = at.offset;
  for (size_t i = at.index; i < at.end && count < out.size() && limit_bytes > 0; ++i) {
    const iovec& segment = segments_[i];
    const size_t bytes = std::min(segment.iov_len - offset, limit_bytes);
    if (bytes > 0) out[count++] = {static_cast<std::byte*>(segment.iov_base) + offset, bytes};
    limit_bytes -= bytes;
    offset = 0;
  }
  return out.first(count);
}

void Chain::advance(Cursor& at, size_t bytes) const {
  bytes = std::min(bytes, at.left);
  at.left -= bytes;
  while (bytes > 0) {
    const size_t step = std::min(bytes, segments_[at.index].iov_len - at.offset);
    bytes -= step;
    at.offset += step;
    if (at.offset == segments_[at.index].iov_len) {
      ++at.index;
      at.offset = 0;
    }
  }
}

size_t Chain::transfer(Cursor& at, std::byte* bytes, size_t size, bool into_guest) const {
  size_t done = 0;
  iovec part;
  while (done < size && at.left > 0) {
    const std::span<iovec> next = describe(at, std::span(&part, 1), size - done);
    if (next.empty()) break;
    if (into_guest) {
      std::memcpy(part.iov_base, bytes + done, part.iov_len);
    } else {
      std::memcpy(bytes + done, part.iov_base, part.iov_len);
    }
    done += part.iov_len;
    advance(at, part.iov_len);
  }
  return done;
}

size_t Chain::read(std::span<std::byte> into) { return transfer(readable_, into.data(), into.size(), false); }

size_t Chain::write(std::span<const std::byte> from) {
  const size_t done = transfer(writable_, const_cast<std::byte*>(from.data()), from.size(), true);
  written_ += static_cast<uint32_t>(done);
  return done;
}

std::span<iovec> Chain::next_readable(std::span<iovec> out, size_t limit_bytes) const {
  return describe(readable_, out, limit_bytes);
}

std::span<iovec> Chain::next_writable(std::span<iovec> out, size_t limit_bytes) const {
  return describe(writable_, out, limit_bytes);
}

void Chain::skip_readable(size_t bytes) { advance(readable_, bytes); }

void Chain::skip_writable(size_t bytes) {
  bytes = std::min(bytes, writable_.left);
  advance(writable_, bytes);
  written_ += static_cast<uint32_t>(bytes);
}

void Chain::patch(size_t offset, std::span<const std::byte> from) {
  Cursor at{writable_.begin, writable_.end, writable_.begin, 0, writable_.left + written_};
  advance(at, offset);
  transfer(at, const_cast<std::byte*>(from.data()), from.size(), true);
}

void Chain::complete() { complete(written_); }

void Chain::complete(uint32_t written_bytes) {
  if (queue_ == nullptr) return;
  std::exchange(queue_, nullptr)->give_back(epoch_, head_, std::min(written_bytes, written_), std::move(segments_));
}

struct Queue::Walk {
  std::vector<iovec> segments;
  size_t readable_count = 0;
  uint64_t bytes = 0;
  bool in_indirect = false;
};

Status Queue::configure(const GuestMemory& memory, const QueueLayout& layout, uint16_t max_size, uint64_t features,
                        uint16_t next_avail, uint16_t next_used) {
  reset();
  if (layout.size == 0 || layout.size > max_size || !std::has_single_bit(layout.size)) {
    return invalid("size is not a power of two within the maximum", layout.size);
  }
  // Both rings end in a 16-bit event field (2.7.6, 2.7.8), there with or without VIRTIO_F_EVENT_IDX.
  descriptors_ = GRANARY_TRY(ring_part(memory, "descriptor table not aligned to 16", layout.descriptor_table, 16,
                                       kDescriptorBytes * layout.size));
  avail_ = GRANARY_TRY(
      ring_part(memory, "available ring not aligned to 2", layout.avail_ring, 2, kAvailHeader + 2 * layout.size + 2));
  used_ = GRANARY_TRY(ring_part(memory, "used ring not aligned to 4", layout.used_ring, 4,
                                kUsedHeader + kUsedElement * layout.size + 2));
  memory_ = &memory;
  size_ = static_cast<uint16_t>(layout.size);
  next_avail_ = next_avail;
  next_used_ = next_used;
  // Also after a restore: devices ask should_interrupt() for all they returned before a snapshot can be taken.
  signalled_used_ = next_used;
  indirect_ = (features >> VIRTIO_RING_F_INDIRECT_DESC & 1) != 0;
  event_idx_ = (features >> VIRTIO_RING_F_EVENT_IDX & 1) != 0;
  return ok();
}

void Queue::reset() {
  ++epoch_;
  memory_ = nullptr;
  descriptors_ = avail_ = used_ = {};
  in_flight_ = 0;
  size_ = next_avail_ = next_used_ = signalled_used_ = 0;
  indirect_ = event_idx_ = broken_ = yielded_ = false;
}

Result<uint16_t> Queue::avail_index() const {
  // Acquire: the ring entry and descriptors written before this index are seen after it (2.7.13).
  const uint16_t index = u16_at(avail_, 2).load(std::memory_order_acquire);
  const auto ahead = static_cast<uint16_t>(index - next_avail_);
  if (ahead > size_) return invalid("available index is more than the queue's size ahead", index);
  return index;
}

Result<bool> Queue::available() {
  if (GRANARY_TRY(avail_index()) != next_avail_) return true;
  if (!event_idx_) return false;
  // Ask for a kick at the next buffer, then look again: the driver may have added one before it saw the request. The
  // full fence orders our store before our load, and pairs with the driver's.
  u16_at(used_, kUsedHeader + kUsedElement * size_).store(next_avail_, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return GRANARY_TRY(avail_index()) != next_avail_;
}

Result<std::optional<Chain>> Queue::fail(Error error) {
  broken_ = true;
  return error;
}

Result<std::optional<Chain>> Queue::pop() {
  if (!ready()) return std::optional<Chain>();
  if (broken_) return invalid("broken by the driver, waits for its reset; next available index", next_avail_);
  Result<bool> more = available();
  if (!more) return fail(std::move(more).error());
  if (!*more) return std::optional<Chain>();
  const size_t slot = next_avail_ % size_;
  const uint16_t head = u16_at(avail_, kAvailHeader + 2 * slot).load(std::memory_order_relaxed);
  Walk found;
  if (!spare_.empty()) {
    found.segments = std::move(spare_.back());
    spare_.pop_back();
  }
  if (Status walked = walk(found, descriptors_, head); !walked) return fail(std::move(walked).error());
  ++next_avail_;
  ++in_flight_;
  return std::optional<Chain>(Chain(this, epoch_, head, std::move(found.segments), found.readable_count));
}

Status Queue::walk(Walk& walk, std::span<const std::byte> table, uint16_t first) const {
  const size_t entries = table.size() / kDescriptorBytes;
  uint16_t index = first;
  // A chain visits each entry of its table at most once; one that goes on after that has a loop.
  for (size_t visited = 0; visited < entries; ++visited) {
    if (index >= entries) return invalid("descriptor index beyond its table", index);
    Descriptor descriptor;
    std::memcpy(&descriptor, table.data() + kDescriptorBytes * index, sizeof(descriptor));
    if ((descriptor.flags & VRING_DESC_F_INDIRECT) != 0) {
      const std::span<const std::byte> inner = GRANARY_TRY(indirect_table(walk, descriptor));
      walk.in_indirect = true;
      return this->walk(walk, inner, 0);
    }
    GRANARY_TRY(add_segment(walk, descriptor));
    if ((descriptor.flags & VRING_DESC_F_NEXT) == 0) return ok();
    index = descriptor.next;
  }
  return invalid("descriptor chain has a loop, head", first);
}

Result<std::span<const std::byte>> Queue::indirect_table(const Walk& walk, const Descriptor& descriptor) const {
  if (!indirect_) return invalid("indirect descriptor without VIRTIO_F_INDIRECT_DESC, flags", descriptor.flags);
  if (walk.in_indirect) return invalid("indirect descriptor inside an indirect table, flags", descriptor.flags);
  if ((descriptor.flags & VRING_DESC_F_NEXT) != 0)
    return invalid("indirect descriptor with next, flags", descriptor.flags);
  if (descriptor.length == 0 || descriptor.length % kDescriptorBytes != 0 ||
      descriptor.length / kDescriptorBytes > size_) {
    return invalid("indirect table length", descriptor.length);
  }
  const std::span<std::byte> table = GRANARY_TRY(memory_->range(Gpa{descriptor.address}, descriptor.length));
  return std::span<const std::byte>(table);
}

Status Queue::add_segment(Walk& walk, const Descriptor& descriptor) const {
  if (descriptor.length == 0) return invalid("descriptor of length 0 at", descriptor.address);
  if (walk.segments.size() == size_) return invalid("chain longer than the queue's size", size_);
  walk.bytes += descriptor.length;
  if (walk.bytes > std::numeric_limits<uint32_t>::max()) return invalid("chain of 4 GiB or more", walk.bytes);
  const std::span<std::byte> bytes = GRANARY_TRY(memory_->range(Gpa{descriptor.address}, descriptor.length));
  const bool writable = (descriptor.flags & VRING_DESC_F_WRITE) != 0;
  if (!writable && walk.readable_count != walk.segments.size()) {
    return invalid("readable descriptor after a writable one, at", descriptor.address);
  }
  walk.segments.push_back({bytes.data(), bytes.size()});
  if (!writable) ++walk.readable_count;
  return ok();
}

void Queue::put_back(Chain chain) {
  if (std::exchange(chain.queue_, nullptr) == nullptr || chain.epoch_ != epoch_) return;
  --next_avail_;
  --in_flight_;
  chain.segments_.clear();
  if (spare_.size() < kMaxSpareLists) spare_.push_back(std::move(chain.segments_));
}

void Queue::give_back(uint64_t epoch, uint16_t head, uint32_t written, std::vector<iovec> segments) {
  if (epoch != epoch_) return;
  put_used(head, written, std::move(segments));
  publish_used();
}

void Queue::complete_together(std::span<Chain> chains) {
  for (Chain& chain : chains) {
    if (std::exchange(chain.queue_, nullptr) == nullptr || chain.epoch_ != epoch_) continue;
    put_used(chain.head_, chain.written_, std::move(chain.segments_));
  }
  publish_used();
}

void Queue::put_used(uint16_t head, uint32_t written, std::vector<iovec> segments) {
  segments.clear();
  if (spare_.size() < kMaxSpareLists) spare_.push_back(std::move(segments));
  --in_flight_;
  struct {
    uint32_t id;
    uint32_t length;
  } const element{head, written};
  std::memcpy(used_.data() + kUsedHeader + kUsedElement * (next_used_ % size_), &element, sizeof(element));
  ++next_used_;
}

void Queue::publish_used() {
  if (!ready()) return;
  // Release: the element and the buffer are visible before the index that announces them.
  u16_at(used_, 2).store(next_used_, std::memory_order_release);
}

bool Queue::should_interrupt() {
  if (!ready()) return false;
  if (signalled_used_ == next_used_) return false;
  // The used index must be visible before we read what the driver wishes, or both sides could miss each other.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint16_t old = std::exchange(signalled_used_, next_used_);
  if (!event_idx_) {
    return (u16_at(avail_, 0).load(std::memory_order_relaxed) & VRING_AVAIL_F_NO_INTERRUPT) == 0;
  }
  const uint16_t event = u16_at(avail_, kAvailHeader + 2 * size_).load(std::memory_order_relaxed);
  return vring_need_event(event, next_used_, old) != 0;
}

}  // namespace granary::virtio
