// SPDX-License-Identifier: Apache-2.0
// What a host's KVM really does, found out with tiny guests.
#include "vmpool/base/event_loop.h"
#include "vmpool/kvm/cpuid.h"
#include "vmpool/kvm/preflight_checks.h"
#include "vmpool/kvm/probe_guest.h"
#include "vmpool/kvm/probe_programs.h"
#include "vmpool/kvm/vcpu_state.h"
#include "vmpool/kvm/vm_state.h"

namespace granary::kvm {
namespace {

using probe::Guest;
using probe::Mode;
using probe::Program;

constexpr const char* kUseHardware = "use a host with hardware virtualisation, or the emulated node";
constexpr uint64_t kCr4Osxsave = 1 << 18;
constexpr uint64_t kCr4Smap = 1 << 21;

Check failed(const Error& error) { return unusable(error.context(), kUseHardware); }

// Runs a program that has one mark to report.
Check expect_mark(const Kvm& kvm, const Program& program, uint8_t wanted, const char* works) {
  Result<Guest> guest = Guest::create(kvm, program);
  if (!guest) return failed(guest.error());
  const Result<uint8_t> mark = guest->run_to_mark();
  if (!mark) return failed(mark.error());
  if (*mark == wanted) return passed(works);
  return unusable("the guest reported " + std::to_string(*mark) + " instead of " + std::to_string(wanted),
                  kUseHardware);
}

Check real_mode(const Kvm& kvm) {
  return expect_mark(kvm, {.mode = Mode::kReal16, .code = probe::kRealMode}, probe::kRealModeMark,
                     "16-bit code runs, port I/O exits");
}

Check long_mode(const Kvm& kvm) {
  return expect_mark(kvm, {.code = probe::kLongMode}, probe::kLongModeMark, "64-bit code runs");
}

Check syscall_entry(const Kvm& kvm) {
  const Program program{.code = probe::kSyscall, .second = probe::kSyscallEntry, .user = probe::kSyscallUser};
  Result<Guest> guest = Guest::create(kvm, program);
  if (!guest) return failed(guest.error());
  const Result<uint8_t> mark = guest->run_to_mark();
  if (mark && *mark == probe::kSyscallMark) return passed("SYSCALL goes from CPL 3 to CPL 0");
  if (mark) return unusable("SYSCALL arrives at CPL " + std::to_string(*mark & 3) + " instead of 0", kUseHardware);
  return unusable("SYSCALL from CPL 3: " + mark.error().context(), kUseHardware);
}

Check xsave(const Kvm& kvm) {
  Result<Guest> guest = Guest::create(kvm, {.code = probe::kXsave, .cr4 = kCr4Osxsave});
  if (!guest) return failed(guest.error());
  const Result<uint8_t> mark = guest->run_to_mark();
  if (!mark) return failed(mark.error());
  const Result<kvm_xcrs> xcrs = guest->vcpu().get_xcrs();
  if (!xcrs) return failed(xcrs.error());
  if (*mark != probe::kXsaveMark) return unusable("the guest reported " + std::to_string(*mark), kUseHardware);
  if (xcrs->nr_xcrs < 1 || xcrs->xcrs[0].value != probe::kXsaveXcr0) {
    return degraded("XSAVE works, but this KVM does not see the guest's XSETBV (seen in QEMU's SVM emulation)",
                    "boot guests with noxsave");
  }
  return passed("XSETBV, XSAVE and XRSTOR work at CPL 0");
}

Check cmpxchg16b(const Kvm& kvm) {
  return expect_mark(kvm, {.code = probe::kCmpxchg16b}, probe::kCmpxchg16bMark, "CMPXCHG16B works at CPL 0");
}

Check smap(const Kvm& kvm) {
  const Result<CpuidTable> table = kvm.get_supported_cpuid();
  if (!table) return failed(table.error());
  const kvm_cpuid_entry2* features = find_cpuid(*table, 7);
  if (features == nullptr || (features->ebx & 1U << 20) == 0) return passed("not offered to guests, so not needed");
  return expect_mark(kvm, {.code = probe::kSmap, .cr4 = kCr4Smap}, probe::kSmapMark, "STAC and CLAC work at CPL 0");
}

Result<uint8_t> halt_and_wake(const Kvm& kvm) {
  const EventFd event = GRANARY_TRY(EventFd::create());
  Guest guest = GRANARY_TRY(Guest::create(kvm, {.code = probe::kIrq, .second = probe::kIrqHandler}));
  GRANARY_TRY(guest.route_interrupt(event.get()));
  GRANARY_TRY(guest.run_to_mark());
  event.signal();
  return guest.run_to_mark();
}

Check irqfd(const Kvm& kvm) {
  const Result<uint8_t> mark = halt_and_wake(kvm);
  if (!mark) return failed(mark.error());
  if (*mark == probe::kIrqMark) return passed("an eventfd interrupts HLT");
  return unusable("the guest reported " + std::to_string(*mark), kUseHardware);
}

Result<uint8_t> save_and_restore(const Kvm& kvm) {
  Guest first = GRANARY_TRY(Guest::create(kvm, {.code = probe::kSnapshot}));
  GRANARY_TRY(first.run_to_mark());
  GRANARY_TRY(first.complete_exit());
  const VcpuState vcpu = GRANARY_TRY(save(first.vcpu(), GRANARY_TRY(msrs_to_save(kvm))));
  const VmState vm = GRANARY_TRY(save(first.vm()));
  Guest second = GRANARY_TRY(first.sibling(kvm));
  GRANARY_TRY(restore(second.vcpu(), vcpu));
  GRANARY_TRY(restore(second.vm(), vm));
  return second.run_to_mark();
}

Check snapshot(const Kvm& kvm) {
  const Result<uint8_t> mark = save_and_restore(kvm);
  if (!mark) return failed(mark.error());
  if (*mark == probe::kRestoredMark) return passed("a saved vCPU goes on in another VM");
  return unusable("a restored vCPU has other registers or memory (mark " + std::to_string(*mark) + ")", kUseHardware);
}

constexpr NamedKvmCheck kGuestChecks[] = {
    {"guest.real_mode", real_mode}, {"guest.long_mode", long_mode},   {"guest.syscall", syscall_entry},
    {"guest.xsave", xsave},         {"guest.cmpxchg16b", cmpxchg16b}, {"guest.smap", smap},
    {"guest.irqfd", irqfd},         {"guest.snapshot", snapshot},
};

}  // namespace

std::vector<Check> check_guests(const Kvm& kvm) {
  std::vector<Check> checks;
  for (const NamedKvmCheck& named : kGuestChecks) {
    Check check = named.run(kvm);
    check.name = named.name;
    checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace granary::kvm
