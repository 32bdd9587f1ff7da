// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "vmpool/base/control_protocol.h"
#include "vmpool/virtio/block.h"
#include "vmpool/virtio/fs.h"
#include "vmpool/virtio/io_worker.h"
#include "vmpool/virtio/mmio_transport.h"
#include "vmpool/virtio/net.h"
#include "vmpool/virtio/vsock.h"
#include "vmpool/vmm/console_sink.h"

namespace granary::vmm {

struct DeviceResources {
  const GuestMemory& memory;
  EventLoop& loop;
  ConsoleSink& console;
  Fd vsock_listener;
};

// The virtio devices of one machine behind their transports. Slots are given out in this order, without gaps: vsock
// (always slot 0), entropy, console, balloon, net, block, fs. The order is part of the machine: the template key and the
// ACPI tables rely on it.
struct Devices {
  // The one thread that may block on files; only where there are block slots. Outlives the devices.
  std::unique_ptr<virtio::IoWorker> worker;
  std::vector<std::unique_ptr<virtio::MmioTransport>> transports;  // by slot
  // Borrowed from the transports.
  virtio::Vsock* vsock = nullptr;
  struct NetSlot {
    virtio::Net* device;
    virtio::MmioTransport* transport;
  };
  struct BlockSlot {
    virtio::Block* device;
    virtio::MmioTransport* transport;
  };
  std::vector<NetSlot> nets;
  std::vector<BlockSlot> blocks;
  virtio::Fs* fs = nullptr;  // nullptr: this machine has none
};

// `set` has been checked (request.h).
Result<Devices> make_devices(const control::DeviceSet& set, DeviceResources resources);

// The n-th device of its kind takes a file or tap, and the guest is told. kInvalidArgument: no such slot, taken, or the
// descriptor is of the wrong kind.
Status attach_block(Devices& devices, uint32_t slot, Fd file, bool read_only);
Status detach_block(Devices& devices, uint32_t slot);
Status attach_net(Devices& devices, uint32_t slot, Fd tap);
// The socket of a granary-fsd; the guest finds it at its next mount.
Status attach_fs(Devices& devices, Fd socket);

const char* device_name(virtio::DeviceType type);

}  // namespace granary::vmm
