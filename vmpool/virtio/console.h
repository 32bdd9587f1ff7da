// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "vmpool/virtio/byte_ring.h"
#include "vmpool/virtio/device.h"

namespace granary::virtio {

// The console device (virtio 1.2, 5.3) with its one port and no optional feature. Output goes to a callback in pieces
// of at most 4 KiB (copies: the guest cannot change them any more); input waits in a bounded ring. Loop thread only.
class Console final : public Device {
 public:
  using Sink = std::function<void(std::span<const std::byte>)>;
  static constexpr size_t kInputBytes = 64 * 1024;

  explicit Console(Sink sink) : sink_(std::move(sink)) {}

  // Input for the guest: takes as much as the ring has space for and returns how much that was.
  size_t write_input(std::span<const std::byte> bytes);
  [[nodiscard]] size_t input_pending() const { return input_.size(); }

  [[nodiscard]] DeviceType type() const override { return DeviceType::kConsole; }
  [[nodiscard]] uint64_t features() const override { return 0; }
  [[nodiscard]] std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> into) const override;
  Status activate(uint64_t features, std::span<Queue> queues, Interrupt& interrupt) override;
  void deactivate() override;
  Status process_queue(uint16_t index) override;
  // No input waits: it would be lost in a snapshot.
  [[nodiscard]] bool quiescent() const override { return input_.empty(); }
  Status restore(const DeviceBlob& state) override;

 private:
  Status send_input();
  Status take_output(Chain chain);

  Sink sink_;
  ByteRing input_{kInputBytes};
  std::span<Queue> queues_;
  Interrupt* interrupt_ = nullptr;
};

}  // namespace granary::virtio
