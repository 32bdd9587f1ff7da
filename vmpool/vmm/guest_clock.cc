// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/guest_clock.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <optional>

namespace granary::vmm {
namespace {

constexpr uint32_t kMsrTsc = 0x10;
constexpr uint32_t kMsrTscDeadline = 0x6e0;

// KVM_VCPU_TSC_OFFSET (Linux 5.16): host TSC to guest TSC. Writing the MSR instead would not do for pauses below a
// second: KVM takes such a write for an attempt to synchronise vCPUs and keeps the old offset.
kvm_device_attr offset_attribute(uint64_t& offset) {
  kvm_device_attr attribute{};
  attribute.group = KVM_VCPU_TSC_CTRL;
  attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<uint64_t>(&offset);
  return attribute;
}

Result<uint64_t> get_tsc_offset(const kvm::Vcpu& vcpu) {
  uint64_t offset = 0;
  const kvm_device_attr attribute = offset_attribute(offset);
  if (::ioctl(vcpu.fd(), KVM_GET_DEVICE_ATTR, &attribute) != 0) return Error::last_os_error("read a vCPU's TSC offset");
  return offset;
}

Status set_tsc_offset(const kvm::Vcpu& vcpu, uint64_t offset) {
  const kvm_device_attr attribute = offset_attribute(offset);
  if (::ioctl(vcpu.fd(), KVM_SET_DEVICE_ATTR, &attribute) != 0) return Error::last_os_error("set a vCPU's TSC offset");
  return ok();
}

struct TimeMsrs {
  uint64_t tsc;
  uint64_t deadline;  // 0: none armed, or this vCPU has none
};

// In one ioctl: each costs a vCPU load.
Result<TimeMsrs> read_time_msrs(const kvm::Vcpu& vcpu) {
  std::array<kvm_msr_entry, 2> msrs{};
  msrs[0].index = kMsrTsc;
  msrs[1].index = kMsrTscDeadline;
  if (GRANARY_TRY(vcpu.get_msrs(msrs)) == 0) return Error(Errc::kNotSupported, "KVM_GET_MSRS refuses the TSC");
  return TimeMsrs{msrs[0].data, msrs[1].data};
}

// Gives every vCPU the offset with which the guest's TSC goes on from `tsc`.
Status set_tsc(std::span<const std::unique_ptr<VcpuThread>> vcpus, uint64_t tsc) {
  kvm::Vcpu& first = vcpus.front()->vcpu();
  const Result<uint64_t> offset = get_tsc_offset(first);
  if (!offset) {
    // A KVM without the attribute.
    for (const auto& vcpu : vcpus) GRANARY_TRY(vcpu->vcpu().set_msr(kMsrTsc, tsc));
    return ok();
  }
  std::optional<uint64_t> now;
  for (const auto& vcpu : vcpus) {
    const TimeMsrs msrs = GRANARY_TRY(read_time_msrs(vcpu->vcpu()));
    if (!now) now = msrs.tsc;
    GRANARY_TRY(set_tsc_offset(vcpu->vcpu(), *offset - (*now - tsc)));
    // KVM turned the deadline (a guest TSC value) into a host timer when it was written, with the offset of that time.
    if (msrs.deadline != 0) GRANARY_TRY(vcpu->vcpu().set_msr(kMsrTscDeadline, msrs.deadline));
  }
  return ok();
}

}  // namespace

Result<GuestClock> read_clock(const kvm::Vm& vm, std::span<const std::unique_ptr<VcpuThread>> vcpus) {
  const kvm_clock_data clock = GRANARY_TRY(vm.get_clock());
  return GuestClock{clock.clock, GRANARY_TRY(vcpus.front()->vcpu().get_msr(kMsrTsc))};
}

void stop_clock_in(snapshot::Snapshot& state, const GuestClock& clock) {
  state.vm.clock_ns = clock.kvmclock_ns;
  for (kvm::VcpuState& vcpu : state.vcpus) {
    for (kvm_msr_entry& msr : std::span(vcpu.msrs).first(vcpu.msr_count)) {
      if (msr.index == kMsrTsc) msr.data = clock.tsc;
    }
  }
}

GuestClock clock_of(const snapshot::Snapshot& state) {
  const kvm::VcpuState& vcpu = state.vcpus.front();
  const std::span<const kvm_msr_entry> msrs = std::span(vcpu.msrs).first(vcpu.msr_count);
  const auto tsc = std::find_if(msrs.begin(), msrs.end(), [](const kvm_msr_entry& e) { return e.index == kMsrTsc; });
  return {state.vm.clock_ns, tsc == msrs.end() ? 0 : tsc->data};
}

Status start_clock(kvm::Vm& vm, std::span<const std::unique_ptr<VcpuThread>> vcpus, const GuestClock& clock) {
  if (clock.tsc != 0) GRANARY_TRY(set_tsc(vcpus, clock.tsc));
  kvm_clock_data data{};
  data.clock = clock.kvmclock_ns;
  GRANARY_TRY(vm.set_clock(data));
  for (const auto& vcpu : vcpus) (void)GRANARY_TRY(vcpu->vcpu().kvmclock_ctrl());
  return ok();
}

}  // namespace granary::vmm
