// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "vmpool/base/fd.h"
#include "vmpool/virtio/device.h"
#include "vmpool/virtio/net_offload.h"

namespace granary::virtio {

using MacAddress = std::array<uint8_t, 6>;

// What a snapshot keeps of a net device. The tap is a resource of the host: it is attached after a restore.
struct NetState {
  MacAddress mac{};
  uint16_t link_up = 0;
};

// The network device (virtio 1.2, 5.1): one queue pair, MAC and link status in config space, checksum and TCP
// segmentation offloads in both directions, mergeable receive buffers. The link is down until a tap arrives; frames
// sent before that are dropped silently. Received frames wait in the tap while the driver has no buffers, but for one
// that was begun; a tap that is full for now makes the driver's frames wait. Loop thread only.
//
// No VIRTIO_NET_F_MTU: the driver reads it once, at template time, as the largest it will ever allow; the guest sets
// the MTU of its pod itself. No control queue: the device filters nothing, so that a guest changes its MAC without
// asking.
class Net final : public Device {
 public:
  Net(EventLoop& loop, const MacAddress& mac);
  ~Net() override;

  // Puts a tap (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) into the slot and raises the link; its vnet header is set to 12
  // bytes and its offloads to what the driver negotiated, which may be long ago, in the template. A datagram or
  // seqpacket socket that carries frames with such a header works too. The caller then calls the transport's
  // notify_config_change(). kInvalidArgument: the slot is taken or the descriptor is neither.
  Status attach(Fd tap);
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
  // Frames and bytes moved in one direction per turn of the loop, so that other devices have theirs.
  struct Budget;
  enum class Sent { kDone, kWait };

  [[nodiscard]] bool has(uint64_t feature) const { return (features_ & feature) != 0; }
  Status set_tap_offloads();

  Status transmit_frames();
  Result<Sent> transmit(Chain& chain);
  Status receive_frames();
  // False: no frame, or no room for one.
  Result<bool> receive_frame();
  bool read_frame();
  void drop_frame();
  Result<bool> gather(size_t frame_bytes);
  void fill_buffers(bool merges);
  void tap_ready(uint32_t events);
  void go_on_later();
  void run(Status (Net::*work)());

  EventLoop& loop_;
  MacAddress mac_;
  Fd tap_;
  bool is_tap_ = false;
  EventLoop::Token watch_ = 0;
  bool readable_ = false;
  bool waits_for_tap_ = false;
  bool goes_on_later_ = false;
  bool failed_ = false;
  unsigned tap_offloads_ = 0;  // TUN_F_*
  unsigned offload_changes_ = 0;
  uint64_t features_ = 0;
  uint64_t dropped_frames_ = 0;
  std::span<Queue> queues_;
  Interrupt* interrupt_ = nullptr;

  // The frame that was read and is not with the driver yet: its header and length here, its bytes in the first
  // read_into_buffers_ bytes of room_ and the rest in overflow_. Length 0: none.
  NetHeader header_;
  size_t frame_bytes_ = 0;
  size_t read_into_buffers_ = 0;
  std::vector<std::byte> overflow_;
  // Receive buffers taken from the driver, the header's place in the first one skipped, and the room in them.
  std::vector<Chain> buffers_;
  size_t room_ = 0;
  size_t expected_bytes_ = 0;  // of the next frame: as the last one

  std::shared_ptr<int> alive_;  // for tasks posted to the loop
};

}  // namespace granary::virtio
