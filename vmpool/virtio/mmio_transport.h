// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>

#include "vmpool/base/log.h"
#include "vmpool/virtio/device.h"

namespace granary::virtio {

struct QueueState {
  uint32_t size = 0;
  uint32_t ready = 0;
  uint64_t descriptor_table = 0;
  uint64_t avail_ring = 0;
  uint64_t used_ring = 0;
  uint16_t next_avail = 0;
  uint16_t next_used = 0;
  uint32_t reserved = 0;
};

// Everything a transport and its device need to go on after a restore. Plain data, stored as it is in a snapshot.
struct TransportState {
  uint32_t device_type = 0;
  uint32_t status = 0;
  uint64_t driver_features = 0;
  uint32_t device_features_select = 0;
  uint32_t driver_features_select = 0;
  uint32_t queue_select = 0;
  uint32_t interrupt_status = 0;
  uint32_t config_generation = 0;
  uint32_t queue_count = 0;
  std::array<QueueState, kMaxQueues> queues{};
  DeviceBlob device;
};

// The virtio-mmio transport (virtio 1.2, 4.2) of one device: registers, feature negotiation, status, queue set-up.
//
// Threads: the loop thread owns it. vCPU threads call only fast_access(), which touches nothing but atomics.
class MmioTransport {
 public:
  MmioTransport(std::unique_ptr<Device> device, const GuestMemory& memory, EventFd irq, EventFd kick);
  ~MmioTransport();
  MmioTransport(const MmioTransport&) = delete;
  MmioTransport& operator=(const MmioTransport&) = delete;

  // Any thread. True when the access was served here: InterruptStatus reads, InterruptACK writes and QueueNotify writes
  // (which mark the queue pending and raise kick()). False: do the access on the loop thread with read() or write().
  bool fast_access(uint32_t offset, bool is_write, std::span<std::byte> data);

  // Loop thread. `data` is 1, 2, 4 or 8 bytes; accesses the specification forbids read as zero or are ignored, counted.
  void read(uint32_t offset, std::span<std::byte> data);
  void write(uint32_t offset, std::span<const std::byte> data);

  // The VMM watches kick() for EPOLLIN and then calls process_kicks() on the loop thread.
  [[nodiscard]] const EventFd& kick() const { return kick_; }
  void process_kicks();

  [[nodiscard]] Device& device() { return *device_; }
  [[nodiscard]] Interrupt& interrupt() { return interrupt_; }
  [[nodiscard]] uint64_t errors() const { return errors_; }
  // Config space changed from the host's side (a file arrived, a link went up): new generation, config-change
  // interrupt.
  void notify_config_change();

  // vCPUs stopped, no kick pending.
  [[nodiscard]] Result<TransportState> save() const;
  // On a fresh transport: state is checked as strictly as guest input (kSnapshotCorrupt), then the device is activated;
  // if activation fails, so does restore.
  Status restore(const TransportState& state);

 private:
  void needs_reset(const Error& why);
  void reset();
  void refuse() { ++errors_; }
  [[nodiscard]] uint32_t read_register(uint32_t offset) const;
  [[nodiscard]] uint32_t read_queue_register(uint32_t offset) const;
  void write_register(uint32_t offset, uint32_t value);
  void write_queue_register(uint32_t offset, uint32_t value);
  void write_queue_ready(uint32_t value);
  void write_driver_features(uint32_t value);
  void write_status(uint32_t value);
  Status activate();
  void process_queue(uint16_t index);
  [[nodiscard]] bool has_status(uint32_t bits) const { return (status_ & bits) == bits; }
  [[nodiscard]] uint64_t offered_features() const;
  [[nodiscard]] uint16_t queue_count() const;
  [[nodiscard]] Status check(const TransportState& state) const;
  Status restore_queues(const TransportState& state);

  std::unique_ptr<Device> device_;
  const GuestMemory& memory_;
  Interrupt interrupt_;
  EventFd kick_;
  std::atomic<uint32_t> pending_kicks_ = 0;
  uint64_t errors_ = 0;
  uint32_t status_ = 0;
  uint64_t driver_features_ = 0;
  uint32_t device_features_select_ = 0;
  uint32_t driver_features_select_ = 0;
  uint32_t queue_select_ = 0;
  uint32_t config_generation_ = 0;
  bool active_ = false;
  // Registers as the driver wrote them; next_avail and next_used are filled in by save() only.
  std::array<QueueState, kMaxQueues> registers_{};
  std::array<Queue, kMaxQueues> queues_;
  LogLimit log_limit_;
};

}  // namespace granary::virtio
