// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "vmpool/base/control_protocol.h"
#include "vmpool/kvm/vcpu_state.h"
#include "vmpool/kvm/vm_state.h"
#include "vmpool/snapshot/memory_file.h"
#include "vmpool/snapshot/serial_state.h"
#include "vmpool/virtio/mmio_transport.h"

namespace granary::snapshot {

// Raised with every change of a structure that the file holds. The VMM build id in the template key guards against a
// change that forgot to raise it.
inline constexpr uint32_t kFormatVersion = 2;
// No valid state file is larger: 8 vCPUs, 19 transports and the rest are below 256 KiB.
inline constexpr uint64_t kMaxStateBytes = 512 * 1024;

// What the shell must equal before a snapshot is loaded into it.
struct Shape {
  uint64_t memory_bytes = 0;
  uint32_t vcpus = 0;
  uint32_t reserved = 0;
  control::DeviceSet devices{};
};

// A microVM without its memory and without any resource of the host. `extents` says which parts of the memory file
// count.
struct Snapshot {
  Shape shape;
  std::vector<Extent> extents;
  kvm::VmState vm;
  SerialState serial;
  std::vector<kvm::VcpuState> vcpus;
  std::vector<virtio::TransportState> transports;  // by slot
};

// The state file: a header with a table of sections, the sections behind it without gaps, each with its own CRC-32; the
// header's covers the header. Host byte order: a snapshot never leaves the kind of host that made it.
std::vector<std::byte> encode(const Snapshot& snapshot);

// Reads a state file as hostile input. Errors, each naming the section or field:
// - kSnapshotTruncated: shorter than its header or than the header says,
// - kSnapshotVersion: another format version,
// - kSnapshotCorrupt: wrong magic, checksum or size, a count or value out of bounds, extents that are not sorted,
// disjoint,
//   page-aligned and inside the memory.
Result<Snapshot> decode(std::span<const std::byte> file);

}  // namespace granary::snapshot
