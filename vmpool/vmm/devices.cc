// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/devices.h"

#include <unistd.h>

#include <string>

#include "vmpool/base/machine_layout.h"
#include "vmpool/virtio/balloon.h"
#include "vmpool/virtio/console.h"
#include "vmpool/virtio/entropy.h"
#include "vmpool/vmm/seccomp.h"

namespace granary::vmm {
namespace {

// What a template's guest sees before its clone gets a tap; the real one is part of the clone's identity.
virtio::MacAddress default_mac(uint8_t slot) { return {0x02, 0, 0, 0, 0, slot}; }

Result<virtio::MmioTransport*> add(Devices& devices, const DeviceResources& resources,
                                   std::unique_ptr<virtio::Device> device) {
  EventFd irq = GRANARY_TRY(EventFd::create());
  EventFd kick = GRANARY_TRY(EventFd::create());
  devices.transports.push_back(
      std::make_unique<virtio::MmioTransport>(std::move(device), resources.memory, std::move(irq), std::move(kick)));
  return devices.transports.back().get();
}

Status add_vsock(Devices& devices, DeviceResources& resources) {
  std::unique_ptr<virtio::Vsock> device =
      GRANARY_TRY(virtio::Vsock::create(resources.loop, machine::kVsockGuestCid, std::move(resources.vsock_listener)));
  devices.vsock = device.get();
  (void)GRANARY_TRY(add(devices, resources, std::move(device)));
  return ok();
}

Status add_net(Devices& devices, const DeviceResources& resources, uint8_t slot) {
  auto device = std::make_unique<virtio::Net>(resources.loop, default_mac(slot));
  virtio::Net* borrowed = device.get();
  devices.nets.push_back({borrowed, GRANARY_TRY(add(devices, resources, std::move(device)))});
  return ok();
}

Status add_block(Devices& devices, const DeviceResources& resources, uint8_t slot) {
  auto device = std::make_unique<virtio::Block>(*devices.worker, "granary-block" + std::to_string(slot));
  virtio::Block* borrowed = device.get();
  devices.blocks.push_back({borrowed, GRANARY_TRY(add(devices, resources, std::move(device)))});
  return ok();
}

Error no_slot(const char* kind, uint32_t slot, size_t count) {
  return {Errc::kInvalidArgument, std::string(kind) + " slot " + std::to_string(slot) + ": this machine has " +
                                      std::to_string(count) + " of them"};
}

}  // namespace

Result<Devices> make_devices(const control::DeviceSet& set, DeviceResources resources) {
  Devices devices;
  GRANARY_TRY(add_vsock(devices, resources));
  if (set.entropy != 0) (void)GRANARY_TRY(add(devices, resources, std::make_unique<virtio::Entropy>()));
  if (set.console != 0) {
    ConsoleSink* sink = &resources.console;
    auto console = std::make_unique<virtio::Console>([sink](std::span<const std::byte> bytes) { sink->write(bytes); });
    (void)GRANARY_TRY(add(devices, resources, std::move(console)));
  }
  if (set.balloon != 0) {
    (void)GRANARY_TRY(add(devices, resources, std::make_unique<virtio::Balloon>(resources.memory)));
  }
  for (uint8_t slot = 0; slot < set.net_slots; ++slot) GRANARY_TRY(add_net(devices, resources, slot));
  if (set.block_slots > 0) {
    devices.worker =
        std::make_unique<virtio::IoWorker>(resources.loop, [] { seccomp::enter_or_end(seccomp::Filter::kWorker); });
  }
  for (uint8_t slot = 0; slot < set.block_slots; ++slot) GRANARY_TRY(add_block(devices, resources, slot));
  if (set.fs != 0) {
    auto fs = std::make_unique<virtio::Fs>(resources.loop, machine::kFsTag);
    devices.fs = fs.get();
    (void)GRANARY_TRY(add(devices, resources, std::move(fs)));
  }
  return devices;
}

Status attach_block(Devices& devices, uint32_t slot, Fd file, bool read_only) {
  if (slot >= devices.blocks.size()) return no_slot("block", slot, devices.blocks.size());
  // Works for regular files and block devices alike.
  const off_t size = ::lseek(file.get(), 0, SEEK_END);
  if (size < 0) return Error(Errc::kInvalidArgument, "block slot " + std::to_string(slot) + ": the file has no size");
  GRANARY_TRY(devices.blocks[slot].device->attach(std::move(file), read_only, static_cast<uint64_t>(size)));
  devices.blocks[slot].transport->notify_config_change();
  return ok();
}

Status detach_block(Devices& devices, uint32_t slot) {
  if (slot >= devices.blocks.size()) return no_slot("block", slot, devices.blocks.size());
  GRANARY_TRY(devices.blocks[slot].device->detach());
  devices.blocks[slot].transport->notify_config_change();
  return ok();
}

Status attach_net(Devices& devices, uint32_t slot, Fd tap) {
  if (slot >= devices.nets.size()) return no_slot("net", slot, devices.nets.size());
  GRANARY_TRY(devices.nets[slot].device->attach(std::move(tap)));
  devices.nets[slot].transport->notify_config_change();
  return ok();
}

Status attach_fs(Devices& devices, Fd socket) {
  if (devices.fs == nullptr) return no_slot("fs", 0, 0);
  return devices.fs->attach(std::move(socket));
}

const char* device_name(virtio::DeviceType type) {
  switch (type) {
    case virtio::DeviceType::kNet:
      return "net";
    case virtio::DeviceType::kBlock:
      return "block";
    case virtio::DeviceType::kConsole:
      return "console";
    case virtio::DeviceType::kEntropy:
      return "entropy";
    case virtio::DeviceType::kBalloon:
      return "balloon";
    case virtio::DeviceType::kVsock:
      return "vsock";
    case virtio::DeviceType::kFs:
      return "fs";
  }
  return "unknown";
}

}  // namespace granary::vmm
