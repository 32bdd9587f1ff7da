// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmpool/virtio/device.h"

namespace granary::virtio {

// The entropy device (virtio 1.2, 5.4): fills the driver's buffers from getrandom(2), at most 64 KiB per buffer.
// Stateless.
class Entropy final : public Device {
 public:
  [[nodiscard]] DeviceType type() const override { return DeviceType::kEntropy; }
  [[nodiscard]] uint64_t features() const override { return 0; }
  [[nodiscard]] std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> into) const override;
  Status activate(uint64_t features, std::span<Queue> queues, Interrupt& interrupt) override;
  void deactivate() override;
  Status process_queue(uint16_t index) override;
  // Stateless: an empty blob, and nothing else is accepted back.
  Status restore(const DeviceBlob& state) override;

 private:
  Queue* queue_ = nullptr;
  Interrupt* interrupt_ = nullptr;
};

}  // namespace granary::virtio
