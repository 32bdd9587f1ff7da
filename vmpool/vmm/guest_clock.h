// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "vmpool/kvm/vm.h"
#include "vmpool/snapshot/snapshot_format.h"
#include "vmpool/vmm/vcpu_thread.h"

namespace granary::vmm {

// Where a stopped guest's clocks stand. Between stop and start no time passes for the guest: neither kvmclock nor the
// TSC jumps.
struct GuestClock {
  uint64_t kvmclock_ns = 0;
  uint64_t tsc = 0;  // of vCPU 0; all vCPUs have the same offset to the host's
};

// vCPUs stopped.
Result<GuestClock> read_clock(const kvm::Vm& vm, std::span<const std::unique_ptr<VcpuThread>> vcpus);
// Time stands still while a machine is parked, but what KVM tells goes on: puts the clocks of `clock` into saved state.
void stop_clock_in(snapshot::Snapshot& state, const GuestClock& clock);
// The clock in saved state; the TSC is 0 if the vCPU state lacks that MSR, and then start_clock leaves the TSC alone.
GuestClock clock_of(const snapshot::Snapshot& state);

// Right before the vCPUs run again: TSC offset, TSC deadline timers, KVM_SET_CLOCK, KVM_KVMCLOCK_CTRL (the guest's
// watchdogs learn of the pause).
Status start_clock(kvm::Vm& vm, std::span<const std::unique_ptr<VcpuThread>> vcpus, const GuestClock& clock);

}  // namespace granary::vmm
