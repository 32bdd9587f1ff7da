// SPDX-License-Identifier: Apache-2.0
#include "vmpool/kvm/boot_registers.h"

#include <cstring>

namespace granary::kvm {
namespace {

constexpr uint64_t kCr0ProtectedMode = 0x1;
constexpr uint64_t kCr0ExtensionType = 0x10;
constexpr uint64_t kCr0Paging = 0x8000'0000;
constexpr uint64_t kCr4Pae = 0x20;
constexpr uint64_t kEferLongMode = 0x100 | 0x400;  // LME, LMA
constexpr uint64_t kRflagsReserved = 0x2;

constexpr uint32_t kMiscEnable = 0x1a0;
constexpr uint64_t kFastStrings = 1;
constexpr uint32_t kMtrrDefaultType = 0x2ff;
constexpr uint64_t kMtrrEnabledWriteBack = 1 << 11 | 6;

constexpr size_t kApicLint0 = 0x350;
constexpr size_t kApicLint1 = 0x360;
constexpr uint32_t kDeliverNmi = 4 << 8;
constexpr uint32_t kDeliverExtIntMasked = 7 << 8 | 1 << 16;

kvm_segment segment(const boot::SegmentPlan& plan) {
  kvm_segment s{};
  s.limit = plan.limit;
  s.selector = plan.selector;
  s.type = plan.type & 0xf;
  s.present = 1;
  s.db = plan.is_32 ? 1 : 0;
  s.s = plan.is_system ? 0 : 1;
  s.l = plan.is_code_64 ? 1 : 0;
  s.g = plan.is_system ? 0 : 1;
  return s;
}

}  // namespace

Status apply_boot_registers(Vcpu& vcpu, const boot::BootPlan& plan) {
  kvm_sregs sregs = GRANARY_TRY(vcpu.get_sregs());
  sregs.cs = segment(plan.code);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(plan.data);
  sregs.tr = segment(plan.task);
  sregs.gdt.base = plan.gdt.value;
  sregs.gdt.limit = plan.gdt_limit;
  sregs.idt.base = 0;
  sregs.idt.limit = 0;
  sregs.cr0 = kCr0ProtectedMode | kCr0ExtensionType;
  if (plan.mode == boot::EntryMode::kLong64) {
    sregs.cr0 |= kCr0Paging;
    sregs.cr3 = plan.page_table.value;
    sregs.cr4 |= kCr4Pae;
    sregs.efer |= kEferLongMode;
  }
  GRANARY_TRY(vcpu.set_sregs(sregs));

  kvm_regs regs{};
  regs.rip = plan.entry.value;
  regs.rsp = plan.stack.value;
  regs.rflags = kRflagsReserved;
  (plan.mode == boot::EntryMode::kLong64 ? regs.rsi : regs.rbx) = plan.start_info.value;
  return vcpu.set_regs(regs);
}

Status apply_firmware_state(Vcpu& vcpu) {
  GRANARY_TRY(vcpu.set_msr(kMiscEnable, GRANARY_TRY(vcpu.get_msr(kMiscEnable)) | kFastStrings));
  GRANARY_TRY(vcpu.set_msr(kMtrrDefaultType, kMtrrEnabledWriteBack));
  kvm_lapic_state lapic = GRANARY_TRY(vcpu.get_lapic());
  std::memcpy(lapic.regs + kApicLint0, &kDeliverExtIntMasked, sizeof(kDeliverExtIntMasked));
  std::memcpy(lapic.regs + kApicLint1, &kDeliverNmi, sizeof(kDeliverNmi));
  return vcpu.set_lapic(lapic);
}

}  // namespace granary::kvm
