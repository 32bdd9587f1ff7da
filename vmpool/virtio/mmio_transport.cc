// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/mmio_transport.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <bit>
#include <cinttypes>

namespace granary::virtio {
namespace {

constexpr uint32_t kMagicValue = 0x74726976;  // "virt"
constexpr uint32_t kVersion = 2;
constexpr uint32_t kVendor = 0x4752414e;  // "GRAN"
constexpr uint32_t kAllStatusBits = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK |
                                    VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
constexpr uint64_t kTransportFeatures =
    1ULL << VIRTIO_F_VERSION_1 | 1ULL << 28 /* INDIRECT_DESC */ | 1ULL << 29 /* EVENT_IDX */;

uint32_t low(uint64_t value) { return static_cast<uint32_t>(value); }
uint32_t high(uint64_t value) { return static_cast<uint32_t>(value >> 32); }
void set_low(uint64_t& value, uint32_t half) { value = (value & ~0xffff'ffffULL) | half; }
void set_high(uint64_t& value, uint32_t half) { value = low(value) | uint64_t{half} << 32; }

uint32_t load32(std::span<const std::byte> data) {
  uint32_t value;
  std::memcpy(&value, data.data(), sizeof(value));
  return value;
}

Error corrupt(const char* what, uint64_t value) {
  return {Errc::kSnapshotCorrupt, std::string("virtio transport state: ") + what + " " + std::to_string(value)};
}

QueueLayout layout_of(const QueueState& registers) {
  return {registers.size, Gpa{registers.descriptor_table}, Gpa{registers.avail_ring}, Gpa{registers.used_ring}};
}

}  // namespace

MmioTransport::MmioTransport(std::unique_ptr<Device> device, const GuestMemory& memory, EventFd irq, EventFd kick)
    : device_(std::move(device)), memory_(memory), interrupt_(std::move(irq)), kick_(std::move(kick)) {
  for (size_t i = 0; i < queue_count(); ++i) registers_[i].size = device_->queue_sizes()[i];
  interrupt_.on_fail([this](const Error& why) { needs_reset(why); });
}

MmioTransport::~MmioTransport() {
  for (Queue& queue : queues_) queue.reset();
  if (active_) device_->deactivate();
}

uint16_t MmioTransport::queue_count() const {
  return static_cast<uint16_t>(std::min(device_->queue_sizes().size(), kMaxQueues));
}

uint64_t MmioTransport::offered_features() const { return device_->features() | kTransportFeatures; }

bool MmioTransport::fast_access(uint32_t offset, bool is_write, std::span<std::byte> data) {
  if (data.size() != sizeof(uint32_t)) return false;
  if (!is_write && offset == VIRTIO_MMIO_INTERRUPT_STATUS) {
    const uint32_t value = interrupt_.status();
    std::memcpy(data.data(), &value, sizeof(value));
    return true;
  }
  if (!is_write) return false;
  const uint32_t value = load32(data);
  if (offset == VIRTIO_MMIO_INTERRUPT_ACK) {
    interrupt_.acknowledge(value);
    return true;
  }
  if (offset != VIRTIO_MMIO_QUEUE_NOTIFY) return false;
  if (value >= kMaxQueues) return true;
  // Whoever sets the first bit wakes the loop thread; it drains the eventfd before it takes the bits.
  if (pending_kicks_.fetch_or(1U << value, std::memory_order_acq_rel) == 0) kick_.signal();
  return true;
}

void MmioTransport::read(uint32_t offset, std::span<std::byte> data) {
  std::fill(data.begin(), data.end(), std::byte{0});
  if (offset >= VIRTIO_MMIO_CONFIG) return device_->read_config(offset - VIRTIO_MMIO_CONFIG, data);
  // 4.2.2.2: control registers are accessed with aligned 32-bit reads and writes only.
  if (data.size() != sizeof(uint32_t) || offset % sizeof(uint32_t) != 0) return refuse();
  const uint32_t value = read_register(offset);
  std::memcpy(data.data(), &value, sizeof(value));
}

uint32_t MmioTransport::read_register(uint32_t offset) const {
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
      return kMagicValue;
    case VIRTIO_MMIO_VERSION:
      return kVersion;
    case VIRTIO_MMIO_DEVICE_ID:
      return static_cast<uint32_t>(device_->type());
    case VIRTIO_MMIO_VENDOR_ID:
      return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      if (device_features_select_ > 1) return 0;
      return device_features_select_ == 0 ? low(offered_features()) : high(offered_features());
    case VIRTIO_MMIO_INTERRUPT_STATUS:
      return interrupt_.status();
    case VIRTIO_MMIO_STATUS:
      return status_;
    case VIRTIO_MMIO_CONFIG_GENERATION:
      return config_generation_;
    // 4.2.2: a shared memory region that does not exist has length and base -1.
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
      return ~0U;
    default:
      return read_queue_register(offset);
  }
}

uint32_t MmioTransport::read_queue_register(uint32_t offset) const {
  if (queue_select_ >= queue_count()) return 0;
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
      return device_->queue_sizes()[queue_select_];
    case VIRTIO_MMIO_QUEUE_READY:
      return registers_[queue_select_].ready;
    default:
      return 0;
  }
}

void MmioTransport::write(uint32_t offset, std::span<const std::byte> data) {
  if (offset >= VIRTIO_MMIO_CONFIG) {
    // 3.1.1: the driver is known, and has not given the device up.
    if (has_status(VIRTIO_CONFIG_S_DRIVER)) device_->write_config(offset - VIRTIO_MMIO_CONFIG, data);
    return;
  }
  if (data.size() != sizeof(uint32_t) || offset % sizeof(uint32_t) != 0) return refuse();
  write_register(offset, load32(data));
}

void MmioTransport::write_register(uint32_t offset, uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
      device_features_select_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
      driver_features_select_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES:
      return write_driver_features(value);
    case VIRTIO_MMIO_QUEUE_SEL:
      queue_select_ = value;
      return;
    case VIRTIO_MMIO_STATUS:
      return write_status(value);
    case VIRTIO_MMIO_SHM_SEL:
      return;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
    case VIRTIO_MMIO_INTERRUPT_ACK: {
      std::array<std::byte, sizeof(value)> bytes;
      std::memcpy(bytes.data(), &value, sizeof(value));
      fast_access(offset, true, bytes);
      return;
    }
    default:
      return write_queue_register(offset, value);
  }
}

void MmioTransport::write_driver_features(uint32_t value) {
  // 3.1.1: features are chosen by a driver that knows the device, and are fixed by FEATURES_OK.
  if (!has_status(VIRTIO_CONFIG_S_DRIVER) || has_status(VIRTIO_CONFIG_S_FEATURES_OK)) return refuse();
  if (driver_features_select_ == 0) {
    set_low(driver_features_, value);
  } else if (driver_features_select_ == 1) {
    set_high(driver_features_, value);
  } else if (value != 0) {
    refuse();  // no feature lives there
  }
}

void MmioTransport::write_queue_register(uint32_t offset, uint32_t value) {
  if (queue_select_ >= queue_count() || has_status(VIRTIO_CONFIG_S_FAILED)) return refuse();
  QueueState& queue = registers_[queue_select_];
  if (offset == VIRTIO_MMIO_QUEUE_READY) return write_queue_ready(value);
  // 4.2.3.2: a queue is set up after features and before DRIVER_OK, and not changed while it is ready.
  if (!has_status(VIRTIO_CONFIG_S_FEATURES_OK) || active_ || queue.ready != 0) return refuse();
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
      queue.size = value;
      return;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
      return set_low(queue.descriptor_table, value);
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
      return set_high(queue.descriptor_table, value);
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
      return set_low(queue.avail_ring, value);
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
      return set_high(queue.avail_ring, value);
    case VIRTIO_MMIO_QUEUE_USED_LOW:
      return set_low(queue.used_ring, value);
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
      return set_high(queue.used_ring, value);
    default:
      return refuse();
  }
}

void MmioTransport::write_queue_ready(uint32_t value) {
  QueueState& registers = registers_[queue_select_];
  Queue& queue = queues_[queue_select_];
  if (value > 1) return refuse();
  if (value == 0) {
    registers.ready = 0;
    if (!queue.ready()) return;
    queue.reset();
    if (!active_) return;
    // 4.2.2.2: after this write the driver may reuse the queue's memory at once. Going through deactivate() makes the
    // device let go of every buffer before the write returns; the other queues go on.
    device_->deactivate();
    active_ = false;
    if (Status s = activate(); !s) needs_reset(s.error());
    return;
  }
  if (registers.ready != 0 || active_ || !has_status(VIRTIO_CONFIG_S_FEATURES_OK)) return refuse();
  const uint16_t max_size = device_->queue_sizes()[queue_select_];
  if (Status s = queue.configure(memory_, layout_of(registers), max_size, driver_features_); !s) {
    queue.reset();
    return needs_reset(s.error());
  }
  registers.ready = 1;
}

void MmioTransport::write_status(uint32_t value) {
  if (value == 0) return reset();
  // 2.1.1: a driver sets bits one after the other, clears none but by reset, and does not set DEVICE_NEEDS_RESET.
  const uint32_t kept = status_ & ~uint32_t{VIRTIO_CONFIG_S_NEEDS_RESET};
  if ((kept & ~value) != 0 || (value & ~kAllStatusBits) != 0) return refuse();
  uint32_t added = value & ~status_ & ~uint32_t{VIRTIO_CONFIG_S_NEEDS_RESET};
  if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0) {
    const bool acceptable = (driver_features_ & ~offered_features()) == 0 &&
                            (driver_features_ >> VIRTIO_F_VERSION_1 & 1) != 0 &&
                            ((status_ | added) & VIRTIO_CONFIG_S_DRIVER) != 0;
    if (!acceptable) {
      refuse();
      added &= ~uint32_t{VIRTIO_CONFIG_S_FEATURES_OK};
    }
  }
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && ((status_ | added) & VIRTIO_CONFIG_S_FEATURES_OK) == 0) {
    refuse();
    added &= ~uint32_t{VIRTIO_CONFIG_S_DRIVER_OK};
  }
  status_ |= added;
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) == 0 || has_status(VIRTIO_CONFIG_S_NEEDS_RESET)) return;
  if (Status s = activate(); !s) needs_reset(s.error());
}

Status MmioTransport::activate() {
  active_ = true;
  return device_->activate(driver_features_, std::span(queues_).first(queue_count()), interrupt_);
}

void MmioTransport::reset() {
  // Queues first: chains that the device drops in deactivate() then go nowhere.
  for (Queue& queue : queues_) queue.reset();
  if (active_) device_->deactivate();
  active_ = false;
  status_ = 0;
  driver_features_ = 0;
  device_features_select_ = driver_features_select_ = queue_select_ = 0;
  registers_ = {};
  for (size_t i = 0; i < queue_count(); ++i) registers_[i].size = device_->queue_sizes()[i];
  interrupt_.set_status(0);
  pending_kicks_.store(0, std::memory_order_release);
}

void MmioTransport::needs_reset(const Error& why) {
  ++errors_;
  if (log_limit_.pass()) {
    log_line(LogLevel::kWarn, "virtio device needs reset type=%u error=\"%s\"", static_cast<unsigned>(device_->type()),
             why.message().c_str());
  }
  status_ |= VIRTIO_CONFIG_S_NEEDS_RESET;
  // 2.1.2: after DRIVER_OK the driver is told by a configuration change.
  if (has_status(VIRTIO_CONFIG_S_DRIVER_OK)) interrupt_.config_change();
}

void MmioTransport::process_kicks() {
  (void)kick_.drain();
  uint32_t pending = pending_kicks_.exchange(0, std::memory_order_acq_rel);
  while (pending != 0) {
    process_queue(static_cast<uint16_t>(std::countr_zero(pending)));
    pending &= pending - 1;
  }
}

void MmioTransport::process_queue(uint16_t index) {
  if (!active_ || has_status(VIRTIO_CONFIG_S_NEEDS_RESET) || index >= queue_count() || !queues_[index].ready()) return;
  if (Status s = device_->process_queue(index); !s) return needs_reset(s.error());
  if (!queues_[index].take_yield()) return;
  if (pending_kicks_.fetch_or(1U << index, std::memory_order_acq_rel) == 0) kick_.signal();
}

void MmioTransport::notify_config_change() {
  ++config_generation_;
  if (has_status(VIRTIO_CONFIG_S_DRIVER_OK)) interrupt_.config_change();
}

Result<TransportState> MmioTransport::save() const {
  if (pending_kicks_.load(std::memory_order_acquire) != 0) {
    return Error(Errc::kDeviceInvalid, "snapshot of a virtio device with a kick pending; process kicks first");
  }
  TransportState state;
  state.device_type = static_cast<uint32_t>(device_->type());
  state.status = status_;
  state.driver_features = driver_features_;
  state.device_features_select = device_features_select_;
  state.driver_features_select = driver_features_select_;
  state.queue_select = queue_select_;
  state.interrupt_status = interrupt_.status();
  state.config_generation = config_generation_;
  state.queue_count = queue_count();
  for (size_t i = 0; i < queue_count(); ++i) {
    if (queues_[i].in_flight() != 0) {
      return Error(Errc::kDeviceInvalid, "snapshot of a virtio device with " + std::to_string(queues_[i].in_flight()) +
                                             " requests in flight; wait until it is quiescent");
    }
    state.queues[i] = registers_[i];
    state.queues[i].next_avail = queues_[i].next_avail();
    state.queues[i].next_used = queues_[i].next_used();
  }
  state.device = device_->save();
  return state;
}

Status MmioTransport::check(const TransportState& state) const {
  if (state.device_type != static_cast<uint32_t>(device_->type())) return corrupt("device type", state.device_type);
  if ((state.status & ~kAllStatusBits) != 0) return corrupt("status", state.status);
  const bool features_ok = (state.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  if (features_ok &&
      ((state.driver_features & ~offered_features()) != 0 || (state.driver_features >> VIRTIO_F_VERSION_1 & 1) == 0)) {
    return corrupt("driver features", state.driver_features);
  }
  if (!features_ok && (state.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0) return corrupt("status", state.status);
  if ((state.interrupt_status & ~3U) != 0) return corrupt("interrupt status", state.interrupt_status);
  if (state.queue_count != queue_count()) return corrupt("number of queues", state.queue_count);
  if (state.device.size_bytes > kMaxDeviceStateBytes) return corrupt("device state size", state.device.size_bytes);
  return ok();
}

Status MmioTransport::restore_queues(const TransportState& state) {
  const bool features_ok = (state.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  for (size_t i = 0; i < kMaxQueues; ++i) {
    const QueueState& from = state.queues[i];
    if (from.ready > 1 || from.reserved != 0) return corrupt("ready flag of queue", i);
    if (i >= queue_count() && from.ready != 0) return corrupt("unexpected queue", i);
    // save() refuses requests in flight, so both sides of a ring have moved equally far.
    if (from.next_avail != from.next_used) return corrupt("ring indices of queue", i);
    if (from.ready == 0 && from.next_avail != 0) return corrupt("ring indices of unused queue", i);
    if (from.ready == 0) continue;
    if (!features_ok) return corrupt("queue ready without features, queue", i);
    if (Status s = queues_[i].configure(memory_, layout_of(from), device_->queue_sizes()[i], state.driver_features,
                                        from.next_avail, from.next_used);
        !s) {
      return Error(Errc::kSnapshotCorrupt, "virtio queue " + std::to_string(i) + ": " + s.error().message());
    }
  }
  registers_ = state.queues;
  for (QueueState& registers : registers_) registers.next_avail = registers.next_used = 0;
  return ok();
}

Status MmioTransport::restore(const TransportState& state) {
  if (active_ || status_ != 0) return Error(Errc::kInvalidArgument, "restore of a virtio transport already in use");
  GRANARY_TRY(check(state));
  GRANARY_TRY(device_->restore(state.device));
  if (Status s = restore_queues(state); !s) {
    reset();
    return s;
  }
  status_ = state.status;
  driver_features_ = state.driver_features;
  device_features_select_ = state.device_features_select;
  driver_features_select_ = state.driver_features_select;
  queue_select_ = state.queue_select;
  config_generation_ = state.config_generation;
  interrupt_.set_status(state.interrupt_status);
  if (!has_status(VIRTIO_CONFIG_S_DRIVER_OK) || has_status(VIRTIO_CONFIG_S_NEEDS_RESET)) return ok();
  if (Status s = activate(); !s) {
    reset();
    return Error(Errc::kSnapshotRestoreFailed, s.error().message());
  }
  return ok();
}

}  // namespace granary::virtio
