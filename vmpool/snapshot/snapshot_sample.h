// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmpool/snapshot/snapshot_format.h"

namespace granary::snapshot {

// A snapshot with something in every field that decode() checks; for tests.
inline Snapshot sample_snapshot(uint32_t vcpus = 2) {
  Snapshot snapshot{};
  snapshot.shape.memory_bytes = 16 * kMiB;
  snapshot.shape.vcpus = vcpus;
  snapshot.shape.devices.entropy = 1;
  snapshot.extents = {{0, 2 * kPageSize}, {4 * kPageSize, kPageSize}, {16 * kMiB - kPageSize, kPageSize}};
  snapshot.vm.clock_ns = 123'456'789;
  snapshot.serial.scratch = 0x5a;
  snapshot.vcpus.resize(vcpus);
  for (uint32_t id = 0; id < vcpus; ++id) {
    kvm::VcpuState& vcpu = snapshot.vcpus[id];
    vcpu.id = id;
    vcpu.msr_count = 3;
    vcpu.xsave_bytes = 576;
    vcpu.regs.rip = 0x1000 + id;
    vcpu.msrs[2].data = 77;
    vcpu.xsave[575] = std::byte{9};
  }
  snapshot.transports.resize(2);
  snapshot.transports[0].device_type = static_cast<uint32_t>(virtio::DeviceType::kVsock);
  snapshot.transports[0].queue_count = 3;
  snapshot.transports[1].device_type = static_cast<uint32_t>(virtio::DeviceType::kEntropy);
  snapshot.transports[1].device.size_bytes = virtio::kMaxDeviceStateBytes;
  return snapshot;
}

}  // namespace granary::snapshot
