// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/fake_driver.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <numeric>

namespace granary::virtio {
namespace {

constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint16_t kIndirect = 4;

struct RawDescriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

uint16_t flags_of(const Segment& segment, bool last) {
  return static_cast<uint16_t>((segment.writable ? kWrite : 0) | (last ? 0 : kNext));
}

}  // namespace

FakeQueue::FakeQueue(const GuestMemory& memory, Gpa base, uint16_t size)
    : memory_(memory),
      size_(size),
      descriptors_(base),
      avail_(base + 16ULL * size),
      used_(Gpa{round_up(avail_.value + 6 + 2ULL * size, 4)}),
      free_(size) {
  std::iota(free_.rbegin(), free_.rend(), uint16_t{0});
  must(memory_.range(base, bytes_for(size)));
}

uint64_t FakeQueue::bytes_for(uint16_t size) { return round_up(16ULL * size + 6 + 2ULL * size, 4) + 6 + 8ULL * size; }

void FakeQueue::write_descriptor(uint16_t index, uint64_t address, uint32_t length, uint16_t flags, uint16_t next) {
  must(memory_.write(descriptors_ + 16ULL * index, RawDescriptor{address, length, flags, next}));
}

void FakeQueue::make_available(uint16_t head) {
  must(memory_.write(avail_ + 4 + 2ULL * (avail_index_ % size_), head));
  set_avail_index(++avail_index_);
}

void FakeQueue::set_avail_index(uint16_t index) const { must(memory_.write(avail_ + 2, index)); }
void FakeQueue::set_avail_flags(uint16_t flags) const { must(memory_.write(avail_, flags)); }
void FakeQueue::set_used_event(uint16_t index) const { must(memory_.write(avail_ + 4 + 2ULL * size_, index)); }
uint16_t FakeQueue::avail_event() const { return must(memory_.read<uint16_t>(used_ + 4 + 8ULL * size_)); }
uint16_t FakeQueue::used_index() const { return must(memory_.read<uint16_t>(used_ + 2)); }

uint16_t FakeQueue::add(std::span<const Segment> segments) {
  std::vector<uint16_t> taken;
  for (size_t i = 0; i < segments.size(); ++i) {
    taken.push_back(free_.back());
    free_.pop_back();
  }
  for (size_t i = 0; i < segments.size(); ++i) {
    const bool last = i + 1 == segments.size();
    write_descriptor(taken[i], segments[i].at.value, segments[i].length, flags_of(segments[i], last),
                     last ? uint16_t{0} : taken[i + 1]);
  }
  const uint16_t head = taken.front();
  chains_[head] = std::move(taken);
  make_available(head);
  return head;
}

uint16_t FakeQueue::add_indirect(Gpa table, std::span<const Segment> segments) {
  for (size_t i = 0; i < segments.size(); ++i) {
    must(memory_.write(table + 16 * i,
                       RawDescriptor{segments[i].at.value, segments[i].length,
                                     flags_of(segments[i], i + 1 == segments.size()), static_cast<uint16_t>(i + 1)}));
  }
  const uint16_t head = free_.back();
  free_.pop_back();
  write_descriptor(head, table.value, static_cast<uint32_t>(16 * segments.size()), kIndirect, 0);
  chains_[head] = {head};
  make_available(head);
  return head;
}

std::optional<UsedElement> FakeQueue::take_used() {
  if (used_index() == used_seen_) return std::nullopt;
  const auto element = must(memory_.read<UsedElement>(used_ + 4 + 8ULL * (used_seen_ % size_)));
  ++used_seen_;
  const auto chain = chains_.find(static_cast<uint16_t>(element.id));
  if (chain != chains_.end()) {
    free_.insert(free_.end(), chain->second.begin(), chain->second.end());
    chains_.erase(chain);
  }
  return element;
}

uint32_t FakeDriver::read32(uint32_t offset) {
  uint32_t value = 0;
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(&value, 1));
  if (!transport_.fast_access(offset, false, bytes)) transport_.read(offset, bytes);
  return value;
}

void FakeDriver::write32(uint32_t offset, uint32_t value) {
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(&value, 1));
  if (!transport_.fast_access(offset, true, bytes)) transport_.write(offset, bytes);
}

uint64_t FakeDriver::device_features() {
  write32(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
  const uint64_t low = read32(VIRTIO_MMIO_DEVICE_FEATURES);
  write32(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
  return low | uint64_t{read32(VIRTIO_MMIO_DEVICE_FEATURES)} << 32;
}

bool FakeDriver::negotiate(uint64_t features) {
  reset();
  write32(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
  write32(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
  write32(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
  write32(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features));
  write32(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
  write32(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features >> 32));
  write32(VIRTIO_MMIO_STATUS, read32(VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_FEATURES_OK);
  return (read32(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
}

void FakeDriver::start(uint16_t queue_size, uint64_t refused_features) {
  negotiate(device_features() & ~refused_features);
  const std::span<const uint16_t> sizes = transport_.device().queue_sizes();
  for (size_t i = 0; i < sizes.size(); ++i) set_up_queue(static_cast<uint16_t>(i), std::min(queue_size, sizes[i]));
  driver_ok();
}

FakeQueue& FakeDriver::set_up_queue(uint16_t index, uint16_t size) {
  queues_.erase(index);
  const Gpa base = allocate(FakeQueue::bytes_for(size));
  FakeQueue& queue = queues_.emplace(index, FakeQueue(memory_, base, size)).first->second;
  write_layout(index, queue.layout());
  write32(VIRTIO_MMIO_QUEUE_READY, 1);
  return queue;
}

void FakeDriver::write_layout(uint16_t index, const QueueLayout& layout) {
  write32(VIRTIO_MMIO_QUEUE_SEL, index);
  write32(VIRTIO_MMIO_QUEUE_NUM, layout.size);
  const auto write_address = [this](uint32_t low_register, Gpa address) {
    write32(low_register, static_cast<uint32_t>(address.value));
    write32(low_register + 4, static_cast<uint32_t>(address.value >> 32));
  };
  write_address(VIRTIO_MMIO_QUEUE_DESC_LOW, layout.descriptor_table);
  write_address(VIRTIO_MMIO_QUEUE_AVAIL_LOW, layout.avail_ring);
  write_address(VIRTIO_MMIO_QUEUE_USED_LOW, layout.used_ring);
}

void FakeDriver::driver_ok() { write32(VIRTIO_MMIO_STATUS, read32(VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK); }

void FakeDriver::reset() { write32(VIRTIO_MMIO_STATUS, 0); }

void FakeDriver::kick(uint16_t index) {
  write32(VIRTIO_MMIO_QUEUE_NOTIFY, index);
  transport_.process_kicks();
}

uint32_t FakeDriver::take_interrupt() {
  const uint32_t status = read32(VIRTIO_MMIO_INTERRUPT_STATUS);
  write32(VIRTIO_MMIO_INTERRUPT_ACK, status);
  return status;
}

bool FakeDriver::needs_reset() { return (read32(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; }

Gpa FakeDriver::allocate(uint64_t size_bytes) {
  const Gpa at = heap_;
  heap_ = Gpa{round_up(heap_.value + size_bytes, 16)};
  must(memory_.range(at, size_bytes));
  return at;
}

Gpa FakeDriver::place(std::span<const std::byte> bytes) {
  const Gpa at = allocate(bytes.size());
  must(memory_.write_bytes(at, bytes));
  return at;
}

std::span<std::byte> FakeDriver::bytes(Gpa at, uint64_t size_bytes) const {
  return must(memory_.range(at, size_bytes));
}

std::string FakeDriver::text(Gpa at, uint64_t size_bytes) const {
  const std::span<std::byte> from = bytes(at, size_bytes);
  return {reinterpret_cast<const char*>(from.data()), from.size()};
}

FakeMachine::FakeMachine(std::unique_ptr<Device> device)
    : FakeMachine([&device](const GuestMemory&) { return std::move(device); }) {}

FakeMachine::FakeMachine(const std::function<std::unique_ptr<Device>(const GuestMemory&)>& make_device)
    : memory(std::make_unique<GuestMemory>(must(GuestMemory::create(kMemoryBytes)))),
      transport(std::make_unique<MmioTransport>(make_device(*memory), *memory, must(EventFd::create()),
                                                must(EventFd::create()))),
      driver(std::make_unique<FakeDriver>(*transport, *memory)) {}

}  // namespace granary::virtio
