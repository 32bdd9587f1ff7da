// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string_view>

#include "vmpool/virtio/mmio_transport.h"

namespace granary::virtio {

// Test code: plays a guest's driver over the registers of a transport and rings in guest memory, and can break every
// rule.

struct Segment {
  Gpa at;
  uint32_t length = 0;
  bool writable = false;
};
struct UsedElement {
  uint32_t id = 0;
  uint32_t length = 0;
};

// The driver's side of a split virtqueue.
class FakeQueue {
 public:
  // Lays the rings out from `base` on; needs bytes_for(size).
  FakeQueue(const GuestMemory& memory, Gpa base, uint16_t size);
  static uint64_t bytes_for(uint16_t size);

  // Well-behaved: builds a chain from free descriptors and makes it available. Returns its head.
  uint16_t add(std::span<const Segment> segments);
  uint16_t add(std::initializer_list<Segment> segments) { return add(std::span(segments.begin(), segments.size())); }
  uint16_t add_indirect(Gpa table, std::span<const Segment> segments);
  // The next buffer that the device returned; its descriptors are free again.
  std::optional<UsedElement> take_used();
  [[nodiscard]] size_t free_descriptors() const { return free_.size(); }

  // Raw access.
  void write_descriptor(uint16_t index, uint64_t address, uint32_t length, uint16_t flags, uint16_t next);
  void make_available(uint16_t head);
  void set_avail_index(uint16_t index) const;
  void set_avail_flags(uint16_t flags) const;
  void set_used_event(uint16_t index) const;
  [[nodiscard]] uint16_t avail_index() const { return avail_index_; }
  [[nodiscard]] uint16_t avail_event() const;
  [[nodiscard]] uint16_t used_index() const;

  [[nodiscard]] QueueLayout layout() const { return {size_, descriptors_, avail_, used_}; }
  [[nodiscard]] uint16_t size() const { return size_; }

 private:
  const GuestMemory& memory_;
  uint16_t size_;
  Gpa descriptors_;
  Gpa avail_;
  Gpa used_;
  uint16_t avail_index_ = 0;
  uint16_t used_seen_ = 0;
  std::vector<uint16_t> free_;
  std::map<uint16_t, std::vector<uint16_t>> chains_;
};

class FakeDriver {
 public:
  FakeDriver(MmioTransport& transport, const GuestMemory& memory, Gpa heap = Gpa{0x10000})
      : transport_(transport), memory_(memory), heap_(heap) {}

  [[nodiscard]] uint32_t read32(uint32_t offset);
  void write32(uint32_t offset, uint32_t value);
  [[nodiscard]] uint64_t device_features();
  template <class T>
  [[nodiscard]] T config(uint32_t offset) {
    T value;
    transport_.read(0x100 + offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  // Reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK. True if the device kept FEATURES_OK.
  bool negotiate(uint64_t features);
  // What a driver that takes everything does: negotiate(offered), all queues at `queue_size` (or their maximum if that
  // is smaller), DRIVER_OK.
  void start(uint16_t queue_size, uint64_t refused_features = 0);
  FakeQueue& set_up_queue(uint16_t index, uint16_t size);
  void write_layout(uint16_t index, const QueueLayout& layout);
  void driver_ok();
  void reset();

  [[nodiscard]] FakeQueue& queue(uint16_t index) { return queues_.at(index); }
  // Notifies the device and lets it process the kick.
  void kick(uint16_t index);
  // Takes and acknowledges the interrupt status.
  uint32_t take_interrupt();
  [[nodiscard]] bool needs_reset();

  // Memory for buffers, never freed; aligned to 16.
  Gpa allocate(uint64_t size_bytes);
  Gpa place(std::span<const std::byte> bytes);
  Gpa place(std::string_view text) { return place(std::as_bytes(std::span(text.data(), text.size()))); }
  template <class T>
  Gpa place_struct(const T& value) {
    return place(std::as_bytes(std::span(&value, 1)));
  }
  [[nodiscard]] std::span<std::byte> bytes(Gpa at, uint64_t size_bytes) const;
  [[nodiscard]] std::string text(Gpa at, uint64_t size_bytes) const;

 private:
  MmioTransport& transport_;
  const GuestMemory& memory_;
  Gpa heap_;
  std::map<uint16_t, FakeQueue> queues_;
};

// A device behind a transport, its memory, and a driver for it.
struct FakeMachine {
  static constexpr uint64_t kMemoryBytes = 8 * kMiB;
  explicit FakeMachine(std::unique_ptr<Device> device);
  explicit FakeMachine(const std::function<std::unique_ptr<Device>(const GuestMemory&)>& make_device);
  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<MmioTransport> transport;
  std::unique_ptr<FakeDriver> driver;
};

// For tests: the value, or abort with the error's text.
template <class T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "unexpected error: %s\n", result.error().message().c_str());
    std::abort();
  }
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

}  // namespace granary::virtio
