// SPDX-License-Identifier: Apache-2.0
#include "vmpool/kvm/probe_guest.h"

#include <array>
#include <cstring>
#include <string>

#include "vmpool/base/machine_layout.h"
#include "vmpool/kvm/cpuid.h"
#include "vmpool/kvm/probe_programs.h"
#include "vmpool/kvm/run_deadline.h"

namespace granary::kvm::probe {
namespace {

constexpr uint64_t kMemoryBytes = 2 * kMiB;
constexpr int kTimeoutMs = 5000;
constexpr Gpa kGdt{0x1000};
constexpr Gpa kPml4{0x2000};
constexpr Gpa kPdpt{0x3000};
constexpr Gpa kPageDirectory{0x4000};
constexpr Gpa kIdt{0x5000};
constexpr uint64_t kStackTop = 0xf000;
constexpr uint64_t kUserPage = 0x7;  // present, writable, user
constexpr uint64_t kLargePage = 0x80;

// null, kernel code, kernel data, user data, user code: the order that SYSCALL and SYSRET imply.
constexpr std::array<uint64_t, 5> kDescriptors = {0, 0x00af'9b00'0000'ffff, 0x00cf'9300'0000'ffff,
                                                  0x00cf'f300'0000'ffff, 0x00af'fb00'0000'ffff};

kvm_segment flat(uint16_t selector, uint8_t type, bool is_code_64) {
  kvm_segment s{};
  s.limit = 0xffff'ffff;
  s.selector = selector;
  s.type = type;
  s.present = 1;
  s.db = is_code_64 ? 0 : 1;
  s.l = is_code_64 ? 1 : 0;
  s.s = 1;
  s.g = 1;
  return s;
}

Status write_tables(const GuestMemory& memory) {
  GRANARY_TRY(memory.write(kGdt, kDescriptors));
  GRANARY_TRY(memory.write(kPml4, kPdpt.value | kUserPage));
  GRANARY_TRY(memory.write(kPdpt, kPageDirectory.value | kUserPage));
  GRANARY_TRY(memory.write(kPageDirectory, kUserPage | kLargePage));
  // 64-bit interrupt gate to kSecondCode, selector 8.
  const std::array<uint64_t, 2> gate = {(kSecondCode & 0xffff) | uint64_t{8} << 16 | uint64_t{0x8e00} << 32, 0};
  return memory.write(kIdt + uint64_t{kInterruptVector} * sizeof(gate), gate);
}

void enter_long_mode(kvm_sregs& sregs, uint64_t cr4) {
  sregs.cs = flat(0x08, 0xb, true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(0x10, 0x3, false);
  sregs.tr.type = 0xb;
  sregs.tr.present = 1;
  sregs.tr.s = 0;
  sregs.tr.limit = 0x67;
  sregs.gdt.base = kGdt.value;
  sregs.gdt.limit = sizeof(kDescriptors) - 1;
  sregs.idt.base = kIdt.value;
  sregs.idt.limit = 0xfff;
  sregs.cr3 = kPml4.value;
  sregs.cr4 = 0x20 | 0x200 | cr4;  // PAE, OSFXSR
  sregs.cr0 = 0x8000'0033;         // PG, NE, ET, MP, PE
  sregs.efer = 0x500;              // LMA, LME
}

Error unexpected_exit(const Vcpu& vcpu) {
  const struct kvm_run& run = vcpu.kvm_run();
  switch (run.exit_reason) {
    case KVM_EXIT_SHUTDOWN:
      return {Errc::kNotSupported, "the guest ended in a triple fault"};
    case KVM_EXIT_INTERNAL_ERROR:
      return {Errc::kNotSupported,
              "KVM_EXIT_INTERNAL_ERROR suberror " + std::to_string(run.internal.suberror) +
                  (run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION ? ": this KVM cannot emulate the instruction"
                                                                         : "")};
    case KVM_EXIT_HLT:
      return {Errc::kNotSupported, "KVM_EXIT_HLT: HLT is not handled in the kernel"};
    default:
      return {Errc::kNotSupported, "unexpected exit reason " + std::to_string(run.exit_reason)};
  }
}

}  // namespace

Result<Guest> Guest::create_on(const Kvm& kvm, std::shared_ptr<GuestMemory> memory) {
  Vm vm = GRANARY_TRY(kvm.create_vm());
  GRANARY_TRY(map_guest_memory(vm, *memory));
  // Real mode on old Intel CPUs runs on these pages.
  GRANARY_TRY(vm.set_identity_map_addr(kIdentityMapAddress));
  GRANARY_TRY(vm.set_tss_addr(kTssAddress));
  GRANARY_TRY(vm.create_irqchip());
  Vcpu vcpu = GRANARY_TRY(vm.create_vcpu(0));
  const CpuidTable supported = GRANARY_TRY(kvm.get_supported_cpuid());
  GRANARY_TRY(vcpu.set_cpuid2(GRANARY_TRY(build_cpuid(supported, GRANARY_TRY(cpuid_shape(kvm, 1)), 0))));
  return Guest(std::move(memory), std::move(vm), std::move(vcpu));
}

Result<Guest> Guest::create(const Kvm& kvm, const Program& program) {
  auto memory = std::make_shared<GuestMemory>(GRANARY_TRY(GuestMemory::create(kMemoryBytes)));
  Guest guest = GRANARY_TRY(create_on(kvm, std::move(memory)));
  GRANARY_TRY(guest.load(program));
  return guest;
}

Result<Guest> Guest::sibling(const Kvm& kvm) { return create_on(kvm, memory_); }

Status Guest::load(const Program& program) {
  GRANARY_TRY(write_tables(*memory_));
  GRANARY_TRY(memory_->write_bytes(Gpa{kCode}, std::as_bytes(program.code)));
  GRANARY_TRY(memory_->write_bytes(Gpa{kSecondCode}, std::as_bytes(program.second)));
  GRANARY_TRY(memory_->write_bytes(Gpa{kUserCode}, std::as_bytes(program.user)));
  kvm_sregs sregs = GRANARY_TRY(vcpu_.get_sregs());
  if (program.mode == Mode::kLong64) {
    enter_long_mode(sregs, program.cr4);
  } else {
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
  }
  GRANARY_TRY(vcpu_.set_sregs(sregs));
  kvm_regs regs{};
  regs.rip = kCode;
  regs.rsp = kStackTop;
  regs.rflags = 0x2;
  return vcpu_.set_regs(regs);
}

Result<uint8_t> Guest::run_to_mark() {
  const RunDeadline deadline = GRANARY_TRY(RunDeadline::arm(vcpu_, kTimeoutMs));
  while (GRANARY_TRY(vcpu_.run()) == Vcpu::RunOutcome::kInterrupted) {
    if (!RunDeadline::passed()) continue;
    vcpu_.request_immediate_exit(false);
    return Error(Errc::kDeadlineExceeded, "the guest did not leave within five seconds");
  }
  const std::span<std::byte> data = vcpu_.io_data();
  const struct kvm_run& run = vcpu_.kvm_run();
  if (data.size() != 1 || run.io.port != machine::kDoorbellPort || run.io.direction != KVM_EXIT_IO_OUT) {
    return unexpected_exit(vcpu_);
  }
  return std::to_integer<uint8_t>(data[0]);
}

Status Guest::complete_exit() {
  vcpu_.request_immediate_exit(true);
  const Result<Vcpu::RunOutcome> outcome = vcpu_.run();
  vcpu_.request_immediate_exit(false);
  if (!outcome) return outcome.error();
  return ok();
}

Status Guest::route_interrupt(int eventfd) {
  kvm_lapic_state lapic = GRANARY_TRY(vcpu_.get_lapic());
  constexpr size_t kSpuriousVector = 0xf0;
  constexpr uint32_t kEnabled = 0x1ff;
  std::memcpy(lapic.regs + kSpuriousVector, &kEnabled, sizeof(kEnabled));
  // The GSI is also a pin of the PIC, which nobody has initialised: keep its vector 5 away.
  constexpr size_t kLint0 = 0x350;
  constexpr uint32_t kMasked = 1 << 16;
  std::memcpy(lapic.regs + kLint0, &kMasked, sizeof(kMasked));
  GRANARY_TRY(vcpu_.set_lapic(lapic));
  kvm_irqchip ioapic = GRANARY_TRY(vm_.get_irqchip(KVM_IRQCHIP_IOAPIC));
  ioapic.chip.ioapic.redirtbl[kInterruptGsi].bits = kInterruptVector;  // fixed, edge, active high, unmasked, APIC 0
  GRANARY_TRY(vm_.set_irqchip(ioapic));
  return vm_.irqfd(eventfd, kInterruptGsi);
}

}  // namespace granary::kvm::probe
