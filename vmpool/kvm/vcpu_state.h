// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/kvm.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "vmpool/kvm/kvm.h"
#include "vmpool/kvm/vcpu.h"

namespace granary::kvm {

inline constexpr size_t kMaxSavedMsrs = 256;
inline constexpr size_t kMaxXsaveBytes = 16 * 1024;

// Everything a vCPU needs to go on in another VM of the same shape on the same host, except its CPUID table and memory,
// which the ready-made shell has already. Plain data, stored as it is in a snapshot.
struct VcpuState {
  uint32_t id;
  uint32_t tsc_khz;
  uint32_t msr_count;    // <= kMaxSavedMsrs
  uint32_t xsave_bytes;  // <= kMaxXsaveBytes, = Vcpu::xsave_size()
  kvm_regs regs;
  kvm_sregs sregs;
  kvm_debugregs debugregs;
  kvm_vcpu_events events;
  kvm_mp_state mp_state;
  uint32_t reserved;
  kvm_xcrs xcrs;
  kvm_lapic_state lapic;
  std::array<kvm_msr_entry, kMaxSavedMsrs> msrs;  // in the order of restoring
  std::array<std::byte, kMaxXsaveBytes> xsave;
};
static_assert(std::is_trivially_copyable_v<VcpuState>);

// The MSRs a snapshot must hold, in the order in which they are restored (TSC first, TSC_DEADLINE last): KVM's own list
// without performance counters, Hyper-V, nested virtualisation and paravirtual features that build_cpuid() hides, plus
// the MTRRs, which older kernels do not list. Make it once per process.
Result<std::vector<uint32_t>> msrs_to_save(const Kvm& kvm);

// The vCPU must not be running, and its last exit must be complete: after KVM_EXIT_IO or KVM_EXIT_MMIO, run() once more
// with request_immediate_exit(true), or the restored guest repeats the access. MSRs the vCPU does not have are left
// out.
Result<VcpuState> save(const Vcpu& vcpu, std::span<const uint32_t> msrs);

// Onto a vCPU of the same id and CPUID that has not run. `state` may come from a damaged or hostile file: counts are
// checked (kSnapshotCorrupt), and what KVM refuses is kSnapshotRestoreFailed naming the ioctl or MSR. The vCPU is
// unusable then. Restore every vCPU, then the VmState (vm_state.h), then call Vcpu::kvmclock_ctrl() on each before it
// runs.
Status restore(Vcpu& vcpu, const VcpuState& state);

}  // namespace granary::kvm
