// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "vmpool/base/fd.h"
#include "vmpool/virtio/device.h"

namespace granary::virtio {

using MacAddress = std::array<uint8_t, 6>;

// What a snapshot keeps of a net device. The tap is a resource of the host: it is attached after a restore.
struct NetState {
  MacAddress mac{};
  uint16_t mtu = 0;
  uint16_t link_up = 0;
  uint16_t reserved = 0;
};

// The network device (virtio 1.2, 5.1): one queue pair, MAC, MTU and link status in config space, no offloads. The link
// is down until a tap arrives; frames sent before that are dropped silently. Received frames wait in the tap while the
// driver has no buffers. Loop thread only.
class Net final : public Device {
 public:
  Net(EventLoop& loop, const MacAddress& mac, uint16_t mtu);
  ~Net() override;

  // Puts a tap (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) into the slot and raises the link; its vnet header is set to 12
  // bytes. A datagram or seqpacket socket that carries frames with such a header works too. The caller then calls the
  // transport's notify_config_change(). kInvalidArgument: the slot is taken or the descriptor is neither.
  Status attach(Fd tap);
  // Replaces the address in config space. The driver reads it once, when it probes: afterwards the guest sets it
  // itself.
  void set_mac(const MacAddress& mac) { mac_ = mac; }
  [[nodiscard]] bool link_up() const { return tap_.valid(); }

  [[nodiscard]] DeviceType type() const override { return DeviceType::kNet; }
  [[nodiscard]] uint64_t features() const override;
  [[nodiscard]] std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> into) const override;
  Status activate(uint64_t features, std::span<Queue> queues, Interrupt& interrupt) override;
  void deactivate() override;
  Status process_queue(uint16_t index) override;
  [[nodiscard]] DeviceBlob save() const override;
  Status restore(const DeviceBlob& state) override;

  [[nodiscard]] uint64_t dropped_frames() const { return dropped_frames_; }

 private:
  Status receive_frames();
  Status transmit(Chain chain);
  void tap_readable();

  EventLoop& loop_;
  MacAddress mac_;
  uint16_t mtu_;
  Fd tap_;
  EventLoop::Token watch_ = 0;
  bool readable_ = false;
  bool failed_ = false;
  uint64_t dropped_frames_ = 0;
  std::span<Queue> queues_;
  Interrupt* interrupt_ = nullptr;
  std::shared_ptr<int> alive_;  // for tasks posted to the loop
};

}  // namespace granary::virtio
