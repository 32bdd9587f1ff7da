// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "vmpool/base/event_loop.h"
#include "vmpool/base/guest_memory.h"
#include "vmpool/virtio/queue.h"

namespace granary::virtio {

// Device ids of virtio 1.2, section 5.
enum class DeviceType : uint32_t {
  kNet = 1,
  kBlock = 2,
  kConsole = 3,
  kEntropy = 4,
  kBalloon = 5,
  kVsock = 19,
  kFs = 26
};

inline constexpr size_t kMaxQueues = 6;
inline constexpr size_t kMaxDeviceStateBytes = 512;

// How a device raises its interrupt: status bit for InterruptStatus (virtio 1.2, 4.2.2), then the irqfd. Any thread.
class Interrupt {
 public:
  explicit Interrupt(EventFd irq) : irq_(std::move(irq)) {}
  // Loop thread: the device found, while its transport was not asking it anything, that it cannot go on. The transport
  // sets DEVICE_NEEDS_RESET and tells the driver (2.1.2).
  void fail(const Error& why) {
    if (on_fail_) on_fail_(why);
  }
  void on_fail(std::function<void(const Error&)> callback) { on_fail_ = std::move(callback); }
  void used_buffer() { raise(1); }
  void config_change() { raise(2); }
  [[nodiscard]] uint32_t status() const { return status_.load(std::memory_order_acquire); }
  void acknowledge(uint32_t bits) { status_.fetch_and(~bits, std::memory_order_acq_rel); }
  void set_status(uint32_t bits) { status_.store(bits, std::memory_order_release); }
  [[nodiscard]] const EventFd& irq() const { return irq_; }

 private:
  void raise(uint32_t bit) {
    status_.fetch_or(bit, std::memory_order_acq_rel);
    irq_.signal();
  }
  EventFd irq_;
  std::atomic<uint32_t> status_ = 0;
  std::function<void(const Error&)> on_fail_;
};

// Device-specific part of a snapshot: a plain struct of the device, as bytes. Restored as strictly as guest input.
struct DeviceBlob {
  uint32_t size_bytes = 0;
  std::array<std::byte, kMaxDeviceStateBytes> bytes{};
};

// A virtio device behind a transport. Owned by its transport; every method runs on the VM's loop thread. A device knows
// neither rings' layout (Queue does) nor registers (the transport does).
class Device {
 public:
  virtual ~Device() = default;

  [[nodiscard]] virtual DeviceType type() const = 0;
  // Device-specific feature bits; the transport adds VIRTIO_F_VERSION_1 and the ring features.
  [[nodiscard]] virtual uint64_t features() const = 0;
  // Largest size of each queue.
  [[nodiscard]] virtual std::span<const uint16_t> queue_sizes() const = 0;

  // Config space. Offsets beyond it read as zero; writes there are ignored (virtio 1.2, 2.5.1 leaves both to us).
  virtual void read_config(uint32_t offset, std::span<std::byte> into) const = 0;
  virtual void write_config(uint32_t /*offset*/, std::span<const std::byte> /*from*/) {}

  // The driver set DRIVER_OK with these negotiated features and queues (all owned by the transport and valid until
  // deactivate). An error makes the transport set DEVICE_NEEDS_RESET.
  virtual Status activate(uint64_t features, std::span<Queue> queues, Interrupt& interrupt) = 0;
  // Driver reset: drop every reference to the queues.
  virtual void deactivate() = 0;
  // The driver kicked this queue. An error makes the transport set DEVICE_NEEDS_RESET and count a device error.
  virtual Status process_queue(uint16_t index) = 0;

  // May a snapshot be taken now? E.g. false while vsock connections are open or a request is in flight.
  [[nodiscard]] virtual bool quiescent() const { return true; }
  [[nodiscard]] virtual DeviceBlob save() const { return {}; }
  // Before activate() of a restored device. kSnapshotCorrupt for anything save() cannot have written.
  virtual Status restore(const DeviceBlob& /*state*/) { return ok(); }
};

}  // namespace granary::virtio
