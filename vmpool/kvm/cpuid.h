// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <vector>

#include "vmpool/kvm/kvm.h"

namespace granary::kvm {

struct CpuidShape {
  uint32_t vcpus = 1;         // 1 to machine::kMaxVcpus
  bool tsc_deadline = false;  // KVM_CAP_TSC_DEADLINE_TIMER
};
// What the host's KVM says about it.
Result<CpuidShape> cpuid_shape(const Kvm& kvm, uint32_t vcpus);

// The CPUID table of vCPU `id`, from KVM_GET_SUPPORTED_CPUID: topology (one thread per core, one package), hypervisor
// bit, kvmclock with a stable clock source; without what a snapshot cannot carry or a guest must not have (performance
// counters, MONITOR/MWAIT, nested virtualisation, async page faults, steal time, AMX, SGX, Intel PT, resource control).
// kVcpusOutOfRange; kKvmCapabilityMissing when the table lacks what Linux needs (long mode, kvmclock).
Result<CpuidTable> build_cpuid(const CpuidTable& supported, const CpuidShape& shape, uint32_t id);

// The entry of a leaf and subleaf, or nullptr.
const kvm_cpuid_entry2* find_cpuid(const CpuidTable& table, uint32_t function, uint32_t index = 0);

}  // namespace granary::kvm
