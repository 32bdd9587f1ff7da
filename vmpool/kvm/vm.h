// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmpool/base/fd.h"
#include "vmpool/base/guest_memory.h"
#include "vmpool/base/units.h"
#include "vmpool/kvm/vcpu.h"

namespace granary::kvm {

// Where set_identity_map_addr() and set_tss_addr() put their pages in Granary's machine: in the device hole, used by
// nothing.
inline constexpr Gpa kIdentityMapAddress{0xfeff'c000};
inline constexpr Gpa kTssAddress{0xfeff'd000};

// One virtual machine: one typed method per VM ioctl, named after it. Owns its descriptor. Works only in the process
// (address space) that made it: KVM answers EIO elsewhere. Methods may be called from any thread; KVM serialises them.
//
// Order that is cheap: memory first, then the irqchip, then vCPUs and irqfds. Later memslot changes wait for a grace
// period.
class Vm {
 public:
  // Maps `host_memory` (page-aligned; it must stay mapped as long as the VM lives) at `start`. An empty span deletes
  // the slot. `flags`: KVM_MEM_*.
  Status set_user_memory_region(uint32_t slot, Gpa start, std::span<std::byte> host_memory, uint32_t flags = 0);
  // Intel only needs these, others ignore them: three pages and one page of guest physical space that the guest never
  // uses.
  Status set_tss_addr(Gpa start);
  Status set_identity_map_addr(Gpa start);
  // PIC, IOAPIC (24 pins) and one LAPIC per vCPU, in the kernel. Before the first vCPU.
  Status create_irqchip();
  // Every signal of `eventfd` is an edge on `gsi`. KVM keeps its own reference to the eventfd.
  Status irqfd(int eventfd, uint32_t gsi);
  Status irqfd_deassign(int eventfd, uint32_t gsi);
  [[nodiscard]] Result<kvm_clock_data> get_clock() const;
  Status set_clock(const kvm_clock_data& clock);
  // `chip_id`: KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE or KVM_IRQCHIP_IOAPIC.
  [[nodiscard]] Result<kvm_irqchip> get_irqchip(uint32_t chip_id) const;
  Status set_irqchip(const kvm_irqchip& chip);
  [[nodiscard]] Result<int> check_extension(int capability) const;
  Status enable_cap(uint32_t capability, uint64_t argument = 0);
  // `id` is also the vCPU's APIC id. kVcpusOutOfRange when KVM allows no such id.
  [[nodiscard]] Result<Vcpu> create_vcpu(uint32_t id) const;

  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  friend class Kvm;
  Vm(Fd fd, size_t vcpu_mmap_size, size_t xsave_size)
      : fd_(std::move(fd)), vcpu_mmap_size_(vcpu_mmap_size), xsave_size_(xsave_size) {}

  Fd fd_;
  size_t vcpu_mmap_size_;
  size_t xsave_size_;
};

// Gives the guest all of `memory`, region n in slot n. `memory` must outlive `vm`.
Status map_guest_memory(Vm& vm, const GuestMemory& memory);

}  // namespace granary::kvm
