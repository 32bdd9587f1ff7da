// SPDX-License-Identifier: Apache-2.0
#include "vmpool/kvm/vcpu.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "vmpool/kvm/ioctl.h"

namespace granary::kvm {
namespace {

constexpr size_t kLegacyXsaveSize = 4096;
constexpr size_t kKernelSignalSetBytes = 8;  // 64 signals, unlike the C library's sigset_t

std::string msr_name(uint32_t index) {
  char text[24];
  std::snprintf(text, sizeof(text), "MSR 0x%x", index);
  return text;
}

}  // namespace

Result<Vcpu::RunOutcome> Vcpu::run() {
  if (::ioctl(fd(), KVM_RUN, 0UL) == 0) return RunOutcome::kExit;
  if (errno == EINTR || errno == EAGAIN) return RunOutcome::kInterrupted;
  return ioctl_error("KVM_RUN", "vCPU " + std::to_string(id_));
}

std::span<std::byte> Vcpu::io_data() const {
  const struct kvm_run& run = kvm_run();
  if (run.exit_reason != KVM_EXIT_IO) return {};
  const uint64_t size_bytes = uint64_t{run.io.size} * run.io.count;
  if (run.io.data_offset > run_page_.size() || size_bytes > run_page_.size() - run.io.data_offset) return {};
  return run_page_.bytes().subspan(run.io.data_offset, size_bytes);
}

Result<kvm_regs> Vcpu::get_regs() const { return get<kvm_regs>(fd(), "KVM_GET_REGS", KVM_GET_REGS); }
Status Vcpu::set_regs(const kvm_regs& regs) { return set(fd(), "KVM_SET_REGS", KVM_SET_REGS, regs); }
Result<kvm_sregs> Vcpu::get_sregs() const { return get<kvm_sregs>(fd(), "KVM_GET_SREGS", KVM_GET_SREGS); }
Status Vcpu::set_sregs(const kvm_sregs& sregs) { return set(fd(), "KVM_SET_SREGS", KVM_SET_SREGS, sregs); }
Result<kvm_fpu> Vcpu::get_fpu() const { return get<kvm_fpu>(fd(), "KVM_GET_FPU", KVM_GET_FPU); }
Status Vcpu::set_fpu(const kvm_fpu& fpu) { return set(fd(), "KVM_SET_FPU", KVM_SET_FPU, fpu); }

Status Vcpu::get_xsave(std::span<std::byte> into) const {
  if (into.size() < xsave_size_) return Error::from_errno(EMSGSIZE, "KVM_GET_XSAVE2: buffer too small");
  if (xsave_size_ > kLegacyXsaveSize) {
    GRANARY_TRY(call(fd(), "KVM_GET_XSAVE2", GRANARY_KVM_GET_XSAVE2, into.data()));
  } else {
    GRANARY_TRY(call(fd(), "KVM_GET_XSAVE", GRANARY_KVM_GET_XSAVE, into.data()));
  }
  return ok();
}

Status Vcpu::set_xsave(std::span<const std::byte> from) {
  if (from.size() < xsave_size_) return Error::from_errno(EMSGSIZE, "KVM_SET_XSAVE: too few bytes");
  GRANARY_TRY(call(fd(), "KVM_SET_XSAVE", GRANARY_KVM_SET_XSAVE, from.data()));
  return ok();
}

Result<kvm_xcrs> Vcpu::get_xcrs() const { return get<kvm_xcrs>(fd(), "KVM_GET_XCRS", KVM_GET_XCRS); }
Status Vcpu::set_xcrs(const kvm_xcrs& xcrs) { return set(fd(), "KVM_SET_XCRS", KVM_SET_XCRS, xcrs); }

Result<size_t> Vcpu::get_msrs(std::span<kvm_msr_entry> entries) const {
  if (entries.size() > kMaxMsrs) return Error::from_errno(E2BIG, "KVM_GET_MSRS: more than 256 MSRs");
  Counted<kvm_msr_entry, kMaxMsrs> msrs;
  msrs.count = static_cast<uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), msrs.elements.begin());
  const int got = GRANARY_TRY(call(fd(), "KVM_GET_MSRS", GRANARY_KVM_GET_MSRS, &msrs));
  std::copy_n(msrs.elements.begin(), got, entries.begin());
  return static_cast<size_t>(got);
}

Result<size_t> Vcpu::set_msrs(std::span<const kvm_msr_entry> entries) {
  if (entries.size() > kMaxMsrs) return Error::from_errno(E2BIG, "KVM_SET_MSRS: more than 256 MSRs");
  Counted<kvm_msr_entry, kMaxMsrs> msrs;
  msrs.count = static_cast<uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), msrs.elements.begin());
  return static_cast<size_t>(GRANARY_TRY(call(fd(), "KVM_SET_MSRS", GRANARY_KVM_SET_MSRS, &msrs)));
}

Result<uint64_t> Vcpu::get_msr(uint32_t index) const {
  kvm_msr_entry entry{};
  entry.index = index;
  const size_t got = GRANARY_TRY(get_msrs({&entry, 1}));
  if (got != 1) return Error::from_errno(EINVAL, "KVM_GET_MSRS refused " + msr_name(index));
  return entry.data;
}

Status Vcpu::set_msr(uint32_t index, uint64_t value) {
  const kvm_msr_entry entry{index, 0, value};
  const size_t done = GRANARY_TRY(set_msrs({&entry, 1}));
  if (done != 1) return Error::from_errno(EINVAL, "KVM_SET_MSRS refused " + msr_name(index));
  return ok();
}

Result<kvm_lapic_state> Vcpu::get_lapic() const { return get<kvm_lapic_state>(fd(), "KVM_GET_LAPIC", KVM_GET_LAPIC); }
Status Vcpu::set_lapic(const kvm_lapic_state& lapic) { return set(fd(), "KVM_SET_LAPIC", KVM_SET_LAPIC, lapic); }
Result<kvm_mp_state> Vcpu::get_mp_state() const {
  return get<kvm_mp_state>(fd(), "KVM_GET_MP_STATE", KVM_GET_MP_STATE);
}
Status Vcpu::set_mp_state(const kvm_mp_state& state) { return set(fd(), "KVM_SET_MP_STATE", KVM_SET_MP_STATE, state); }

Result<kvm_vcpu_events> Vcpu::get_vcpu_events() const {
  return get<kvm_vcpu_events>(fd(), "KVM_GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS);
}
Status Vcpu::set_vcpu_events(const kvm_vcpu_events& events) {
  return set(fd(), "KVM_SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS, events);
}

Result<kvm_debugregs> Vcpu::get_debugregs() const {
  return get<kvm_debugregs>(fd(), "KVM_GET_DEBUGREGS", KVM_GET_DEBUGREGS);
}
Status Vcpu::set_debugregs(const kvm_debugregs& regs) {
  return set(fd(), "KVM_SET_DEBUGREGS", KVM_SET_DEBUGREGS, regs);
}

Status Vcpu::set_cpuid2(std::span<const kvm_cpuid_entry2> entries) {
  if (entries.size() > kMaxCpuidEntries) return Error::from_errno(E2BIG, "KVM_SET_CPUID2: more than 256 entries");
  Counted<kvm_cpuid_entry2, kMaxCpuidEntries> table;
  table.count = static_cast<uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), table.elements.begin());
  GRANARY_TRY(call(fd(), "KVM_SET_CPUID2", GRANARY_KVM_SET_CPUID2, &table));
  return ok();
}

Result<std::vector<kvm_cpuid_entry2>> Vcpu::get_cpuid2() const {
  Counted<kvm_cpuid_entry2, kMaxCpuidEntries> table{};
  table.count = kMaxCpuidEntries;
  GRANARY_TRY(call(fd(), "KVM_GET_CPUID2", GRANARY_KVM_GET_CPUID2, &table));
  return std::vector<kvm_cpuid_entry2>(table.elements.begin(), table.elements.begin() + table.count);
}

Result<uint32_t> Vcpu::get_tsc_khz() const {
  return static_cast<uint32_t>(GRANARY_TRY(call_value(fd(), "KVM_GET_TSC_KHZ", KVM_GET_TSC_KHZ)));
}

Status Vcpu::set_tsc_khz(uint32_t khz) {
  GRANARY_TRY(call_value(fd(), "KVM_SET_TSC_KHZ", KVM_SET_TSC_KHZ, khz, std::to_string(khz)));
  return ok();
}

Result<bool> Vcpu::kvmclock_ctrl() {
  if (::ioctl(fd(), KVM_KVMCLOCK_CTRL, 0UL) == 0) return true;
  if (errno == EINVAL) return false;
  return ioctl_error("KVM_KVMCLOCK_CTRL");
}

Status Vcpu::set_signal_mask(const sigset_t* mask) {
  struct {
    uint32_t length = kKernelSignalSetBytes;
    std::array<std::byte, kKernelSignalSetBytes> set{};
  } argument;
  if (mask != nullptr) std::memcpy(argument.set.data(), mask, argument.set.size());
  GRANARY_TRY(call(fd(), "KVM_SET_SIGNAL_MASK", GRANARY_KVM_SET_SIGNAL_MASK, mask == nullptr ? nullptr : &argument));
  return ok();
}

Status Vcpu::nmi() {
  GRANARY_TRY(call_value(fd(), "KVM_NMI", KVM_NMI));
  return ok();
}

}  // namespace granary::kvm
