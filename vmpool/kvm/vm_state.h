// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/kvm.h>

#include <array>
#include <cstdint>
#include <type_traits>

#include "vmpool/kvm/vm.h"

namespace granary::kvm {

// What a VM holds outside its vCPUs and memory. Plain data, stored as it is in a snapshot.
struct VmState {
  std::array<kvm_irqchip, 3> irqchips;  // PIC master, PIC slave, IOAPIC
  uint64_t clock_ns;                    // kvmclock: nanoseconds since the guest booted
};
static_assert(std::is_trivially_copyable_v<VmState>);

// The vCPUs must not be running.
Result<VmState> save(const Vm& vm);

// After every vCPU's state, because an interrupt pending in the IOAPIC is delivered to the LAPICs at once. The clock
// goes on from the saved value: the time in between does not exist for the guest. Errors as in vcpu_state.h.
Status restore(Vm& vm, const VmState& state);

}  // namespace granary::kvm
