// SPDX-License-Identifier: Apache-2.0
// For long-park-vmm, a granary-vmm for tests, in place of guest_clock.cc: whenever the guest's clock is to start, KVM's
// clocks have gone on for two hours since it was stopped, as after a park of that length, and a timer that was armed
// has expired.
#define start_clock start_clock_after_the_park
#include "vmpool/vmm/guest_clock.cc"  // NOLINT(bugprone-suspicious-include)
#undef start_clock

namespace granary::vmm {
namespace {

constexpr uint64_t kParkedS = 7200;

Status let_time_pass(kvm::Vm& vm, std::span<const std::unique_ptr<VcpuThread>> vcpus) {
  for (const auto& vcpu : vcpus) {
    const uint64_t tsc_khz = GRANARY_TRY(vcpu->vcpu().get_tsc_khz());
    const TimeMsrs msrs = GRANARY_TRY(read_time_msrs(vcpu->vcpu()));
    const uint64_t offset = GRANARY_TRY(get_tsc_offset(vcpu->vcpu()));
    GRANARY_TRY(set_tsc_offset(vcpu->vcpu(), offset + kParkedS * 1000 * tsc_khz));
    if (msrs.deadline != 0) GRANARY_TRY(vcpu->vcpu().set_msr(kMsrTscDeadline, msrs.deadline));
  }
  kvm_clock_data clock{};
  clock.clock = GRANARY_TRY(vm.get_clock()).clock + kParkedS * 1'000'000'000;
  return vm.set_clock(clock);
}

}  // namespace

Status start_clock(kvm::Vm& vm, std::span<const std::unique_ptr<VcpuThread>> vcpus, const GuestClock& clock) {
  GRANARY_TRY(let_time_pass(vm, vcpus));
  return start_clock_after_the_park(vm, vcpus, clock);
}

}  // namespace granary::vmm
