// SPDX-License-Identifier: Apache-2.0
#include "vmpool/kvm/vm.h"

#include <string>

#include "vmpool/kvm/ioctl.h"

namespace granary::kvm {

Status Vm::set_user_memory_region(uint32_t slot, Gpa start, std::span<std::byte> host_memory, uint32_t flags) {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.flags = flags;
  region.guest_phys_addr = start.value;
  region.memory_size = host_memory.size();
  region.userspace_addr = reinterpret_cast<uintptr_t>(host_memory.data());
  return set(fd(), "KVM_SET_USER_MEMORY_REGION", KVM_SET_USER_MEMORY_REGION, region,
             "slot " + std::to_string(slot) + ", " + std::to_string(host_memory.size()) + " bytes");
}

Status Vm::set_tss_addr(Gpa start) {
  GRANARY_TRY(call_value(fd(), "KVM_SET_TSS_ADDR", KVM_SET_TSS_ADDR, start.value));
  return ok();
}

Status Vm::set_identity_map_addr(Gpa start) {
  return set(fd(), "KVM_SET_IDENTITY_MAP_ADDR", KVM_SET_IDENTITY_MAP_ADDR, start.value);
}

Status Vm::create_irqchip() {
  GRANARY_TRY(call_value(fd(), "KVM_CREATE_IRQCHIP", KVM_CREATE_IRQCHIP));
  return ok();
}

Status Vm::irqfd(int eventfd, uint32_t gsi) {
  kvm_irqfd irq{};
  irq.fd = static_cast<uint32_t>(eventfd);
  irq.gsi = gsi;
  return set(fd(), "KVM_IRQFD", KVM_IRQFD, irq, "GSI " + std::to_string(gsi));
}

Status Vm::irqfd_deassign(int eventfd, uint32_t gsi) {
  kvm_irqfd irq{};
  irq.fd = static_cast<uint32_t>(eventfd);
  irq.gsi = gsi;
  irq.flags = KVM_IRQFD_FLAG_DEASSIGN;
  return set(fd(), "KVM_IRQFD", KVM_IRQFD, irq, "deassign GSI " + std::to_string(gsi));
}

Result<kvm_clock_data> Vm::get_clock() const { return get<kvm_clock_data>(fd(), "KVM_GET_CLOCK", KVM_GET_CLOCK); }

Status Vm::set_clock(const kvm_clock_data& clock) { return set(fd(), "KVM_SET_CLOCK", KVM_SET_CLOCK, clock); }

Result<kvm_irqchip> Vm::get_irqchip(uint32_t chip_id) const {
  kvm_irqchip chip{};
  chip.chip_id = chip_id;
  GRANARY_TRY(call(fd(), "KVM_GET_IRQCHIP", KVM_GET_IRQCHIP, &chip, "chip " + std::to_string(chip_id)));
  return chip;
}

Status Vm::set_irqchip(const kvm_irqchip& chip) {
  return set(fd(), "KVM_SET_IRQCHIP", KVM_SET_IRQCHIP, chip, "chip " + std::to_string(chip.chip_id));
}

Result<int> Vm::check_extension(int capability) const {
  return call_value(fd(), "KVM_CHECK_EXTENSION", KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability));
}

Status Vm::enable_cap(uint32_t capability, uint64_t argument) {
  kvm_enable_cap cap{};
  cap.cap = capability;
  cap.args[0] = argument;
  return set(fd(), "KVM_ENABLE_CAP", KVM_ENABLE_CAP, cap, "capability " + std::to_string(capability));
}

Result<Vcpu> Vm::create_vcpu(uint32_t id) const {
  const int made = ::ioctl(fd(), KVM_CREATE_VCPU, static_cast<unsigned long>(id));
  if (made < 0 && errno == EINVAL) {
    return Error(Errc::kVcpusOutOfRange,
                 "KVM_CREATE_VCPU " + std::to_string(id) + ": more vCPUs than this host's KVM allows");
  }
  if (made < 0) return ioctl_error("KVM_CREATE_VCPU", std::to_string(id));
  Fd vcpu(made);
  Mapping page = GRANARY_TRY(Mapping::shared_file(vcpu.get(), vcpu_mmap_size_, true));
  return Vcpu(std::move(vcpu), std::move(page), id, xsave_size_);
}

Status map_guest_memory(Vm& vm, const GuestMemory& memory) {
  uint32_t slot = 0;
  for (const GuestMemory::Region& region : memory.regions()) {
    GRANARY_TRY(
        vm.set_user_memory_region(slot++, region.start, GRANARY_TRY(memory.range(region.start, region.size_bytes))));
  }
  return ok();
}

}  // namespace granary::kvm
