// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmpool/virtio/device.h"

namespace granary::virtio {

// What a snapshot keeps of a balloon.
struct BalloonState {
  uint32_t target_pages = 0;  // 4 KiB each
  uint32_t actual_pages = 0;
};

// The traditional memory balloon (virtio 1.2, 5.5) with free page reporting. Pages that the guest gives up (inflated or
// reported) go back to the host with MADV_DONTNEED.
//
// What the guest finds there afterwards: zeroes in anonymous memory, but the *template's* bytes where a template's
// memfd is mapped privately under that page. Both specifications' promises hold (content is undefined without
// PAGE_POISON, which is not offered), and the template's bytes are the guest's own. It also means that giving back a
// page of an extent frees the private copy, never the template's page. Loop thread only.
class Balloon final : public Device {
 public:
  explicit Balloon(const GuestMemory& memory) : memory_(memory) {}

  // How many 4 KiB pages the guest is asked to give up; bounded by guest memory. The caller then calls the transport's
  // notify_config_change().
  void set_target(uint32_t pages);
  // How many the driver says it gave up: the guest's word, for display only.
  [[nodiscard]] uint32_t actual_pages() const { return actual_pages_; }
  // Bytes returned to the host since the device was made.
  [[nodiscard]] uint64_t returned_bytes() const { return returned_bytes_; }

  [[nodiscard]] DeviceType type() const override { return DeviceType::kBalloon; }
  [[nodiscard]] uint64_t features() const override;
  [[nodiscard]] std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> into) const override;
  void write_config(uint32_t offset, std::span<const std::byte> from) override;
  Status activate(uint64_t features, std::span<Queue> queues, Interrupt& interrupt) override;
  void deactivate() override;
  Status process_queue(uint16_t index) override;
  [[nodiscard]] DeviceBlob save() const override;
  Status restore(const DeviceBlob& state) override;

 private:
  Status inflate(Chain chain);
  Status report(Chain chain);
  Status give_back(std::byte* start, uint64_t size_bytes);

  const GuestMemory& memory_;
  uint32_t target_pages_ = 0;
  uint32_t actual_pages_ = 0;
  uint64_t returned_bytes_ = 0;
  uint64_t features_ = 0;
  std::span<Queue> queues_;
  Interrupt* interrupt_ = nullptr;
};

}  // namespace granary::virtio
