// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "vmpool/base/guest_memory.h"

namespace granary::virtio {

inline constexpr uint16_t kMaxQueueSize = 1024;

class Queue;

// One buffer that the driver made available: a descriptor chain (virtio 1.2, 2.7.5), validated as a whole when it was
// popped, split into a device-readable part and a device-writable part after it. It goes back to the used ring exactly
// once: by complete(), by Queue::put_back() or, with length 0, when it is dropped. Chains of a queue that was reset
// meanwhile go nowhere. Move-only; loop thread only (the segments themselves may be handed to another thread).
//
// The segments are guest memory: the guest may change them at any time. Copy out once, check the copy.
class Chain {
 public:
  Chain(Chain&& other) noexcept;
  Chain& operator=(Chain&& other) noexcept;
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;
  ~Chain();

  // Bytes not yet consumed of either part.
  [[nodiscard]] size_t readable_left() const { return readable_.left; }
  [[nodiscard]] size_t writable_left() const { return writable_.left; }
  // Of the writable part as a whole.
  [[nodiscard]] size_t writable_size() const { return writable_.left + written_; }

  // Copies the next bytes of the readable part out, or the next bytes of the writable part in; as many as there are.
  size_t read(std::span<std::byte> into);
  size_t write(std::span<const std::byte> from);
  // A structure from the readable part; kDeviceInvalid if the chain is too short for it.
  template <class T>
  [[nodiscard]] Result<T> read_struct(const char* what) {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    if (read(std::as_writable_bytes(std::span(&value, 1))) != sizeof(T)) return too_short(what, sizeof(T));
    return value;
  }

  // Describes up to `limit_bytes` of what comes next, for readv/writev: fills `out` as far as it goes and returns the
  // used part. Consumes nothing.
  std::span<iovec> next_readable(std::span<iovec> out, size_t limit_bytes) const;
  std::span<iovec> next_writable(std::span<iovec> out, size_t limit_bytes) const;
  // Consumes without copying: the bytes were transferred through next_readable()/next_writable().
  void skip_readable(size_t bytes);
  void skip_writable(size_t bytes);
  // Overwrites part of the writable part; `offset` counts from its start. What would lie beyond its end is not written.
  void patch(size_t offset, std::span<const std::byte> from);
  [[nodiscard]] size_t segment_count() const { return segments_.size(); }

  // Returns the buffer with the number of bytes written so far (2.7.8.2).
  void complete();
  // The same with a smaller length: only the first `written_bytes` bytes are valid.
  void complete(uint32_t written_bytes);

 private:
  friend class Queue;
  // A position in segments_[begin, end).
  struct Cursor {
    size_t begin = 0;
    size_t end = 0;
    size_t index = 0;
    size_t offset = 0;
    size_t left = 0;
  };
  Chain(Queue* queue, uint64_t epoch, uint16_t head, std::vector<iovec> segments, size_t readable_count);
  [[nodiscard]] static Error too_short(const char* what, size_t wanted);
  [[nodiscard]] std::span<iovec> describe(const Cursor& at, std::span<iovec> out, size_t limit_bytes) const;
  void advance(Cursor& at, size_t bytes) const;
  size_t transfer(Cursor& at, std::byte* bytes, size_t size, bool into_guest) const;

  Queue* queue_ = nullptr;  // nullptr: already returned
  uint64_t epoch_ = 0;
  uint16_t head_ = 0;
  std::vector<iovec> segments_;
  Cursor readable_;
  Cursor writable_;
  uint32_t written_ = 0;
};

// Where the driver put a split virtqueue (virtio 1.2, 2.7).
struct QueueLayout {
  uint32_t size = 0;  // descriptors
  Gpa descriptor_table;
  Gpa avail_ring;
  Gpa used_ring;
};

// The device's side of a split virtqueue. The transport owns and configures it; the device pops and returns chains. It
// stays at one address for the life of its transport. Loop thread only.
//
// Anything a driver MUST NOT do to a ring is an error of pop(): kDeviceInvalid or kGuestAddressInvalid, which the
// device passes on so that the transport sets DEVICE_NEEDS_RESET. After an error the queue gives nothing but errors
// until its reset.
class Queue {
 public:
  Queue() = default;
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Checks and adopts a layout: size a power of two <= max_size, alignment 16/2/4, all three inside guest memory.
  // `features`: the negotiated ones. `next_avail`, `next_used`: 0, or where a restored queue goes on.
  Status configure(const GuestMemory& memory, const QueueLayout& layout, uint16_t max_size, uint64_t features,
                   uint16_t next_avail = 0, uint16_t next_used = 0);
  // Back to unconfigured; chains still out will not be returned.
  void reset();

  [[nodiscard]] bool ready() const { return memory_ != nullptr; }
  [[nodiscard]] uint16_t size() const { return size_; }
  [[nodiscard]] uint16_t next_avail() const { return next_avail_; }
  [[nodiscard]] uint16_t next_used() const { return next_used_; }
  // Chains popped and not yet returned.
  [[nodiscard]] uint32_t in_flight() const { return in_flight_; }

  // The next available chain; nothing when there is none or the queue is not ready. Once it has said "nothing", the
  // driver's next buffer comes with a kick.
  Result<std::optional<Chain>> pop();
  // Gives back the chain popped last, untouched, as if it had not been popped.
  void put_back(Chain chain);

  // Chain::complete() for several, which the driver sees all at once: the buffers of one packet (5.1.6.4).
  void complete_together(std::span<Chain> chains);

  // After returning chains: does the driver want an interrupt for them (2.7.7.2, 2.7.10)?
  [[nodiscard]] bool should_interrupt();

  // A device that stops although chains may be left asks the transport to be called again after other work, so that a
  // guest cannot hold the loop thread.
  void yield() { yielded_ = true; }
  [[nodiscard]] bool take_yield() { return std::exchange(yielded_, false); }

 private:
  friend class Chain;
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
  };
  struct Walk;
  Result<bool> available();
  Result<uint16_t> avail_index() const;
  Status walk(Walk& walk, std::span<const std::byte> table, uint16_t first) const;
  Status add_segment(Walk& walk, const Descriptor& descriptor) const;
  Result<std::span<const std::byte>> indirect_table(const Walk& walk, const Descriptor& descriptor) const;
  Result<std::optional<Chain>> fail(Error error);
  void give_back(uint64_t epoch, uint16_t head, uint32_t written, std::vector<iovec> segments);
  void put_used(uint16_t head, uint32_t written, std::vector<iovec> segments);
  void publish_used();

  const GuestMemory* memory_ = nullptr;
  std::span<std::byte> descriptors_;
  std::span<std::byte> avail_;
  std::span<std::byte> used_;
  uint64_t epoch_ = 0;
  uint32_t in_flight_ = 0;
  uint16_t size_ = 0;
  uint16_t next_avail_ = 0;
  uint16_t next_used_ = 0;
  uint16_t signalled_used_ = 0;
  bool indirect_ = false;
  bool event_idx_ = false;
  bool broken_ = false;
  bool yielded_ = false;
  std::vector<std::vector<iovec>> spare_;  // segment lists of returned chains, to be used again
};

// Calls `handle(Chain)` (returning Status) for each available chain, at most a queue's size of them per call (then
// yields). Stops at the first error.
template <class Handle>
Status for_each_chain(Queue& queue, Handle handle) {
  for (uint32_t n = 0; n < queue.size(); ++n) {
    std::optional<Chain> chain = GRANARY_TRY(queue.pop());
    if (!chain) return ok();
    GRANARY_TRY(handle(*std::move(chain)));
  }
  queue.yield();
  return ok();
}

}  // namespace granary::virtio
