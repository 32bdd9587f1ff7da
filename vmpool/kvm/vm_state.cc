// SPDX-License-Identifier: Apache-2.0
#include "vmpool/kvm/vm_state.h"

#include "vmpool/kvm/restore_error.h"

namespace granary::kvm {

Result<VmState> save(const Vm& vm) {
  VmState state{};
  for (uint32_t chip = 0; chip < state.irqchips.size(); ++chip)
    state.irqchips[chip] = GRANARY_TRY(vm.get_irqchip(chip));
  state.clock_ns = GRANARY_TRY(vm.get_clock()).clock;
  return state;
}

Status restore(Vm& vm, const VmState& state) {
  for (uint32_t id = 0; id < state.irqchips.size(); ++id) {
    if (state.irqchips[id].chip_id != id) {
      return Error(Errc::kSnapshotCorrupt, "irqchip " + std::to_string(id) + " has the id " +
                                               std::to_string(state.irqchips[id].chip_id) + "; rebuild the template");
    }
    GRANARY_TRY(as_restore_error(vm.set_irqchip(state.irqchips[id])));
  }
  kvm_clock_data clock{};  // no KVM_CLOCK_REALTIME: the guest's monotonic clock must not see the pause
  clock.clock = state.clock_ns;
  return as_restore_error(vm.set_clock(clock));
}

}  // namespace granary::kvm
