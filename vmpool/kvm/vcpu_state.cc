// SPDX-License-Identifier: Apache-2.0
#include "vmpool/kvm/vcpu_state.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "vmpool/kvm/restore_error.h"

namespace granary::kvm {
namespace {

constexpr uint32_t kTsc = 0x10;
constexpr uint32_t kTscDeadline = 0x6e0;

struct MsrRange {
  uint32_t first;
  uint32_t last;
};

// MSRs that KVM lists and a snapshot leaves out: the guest does not see the feature (build_cpuid()), or the value is
// the host's and part of the template key.
constexpr MsrRange kNotSaved[] = {
    {0x11, 0x12},              // kvmclock's first MSRs, aliases of 0x4b564d00 and 01
    {0x3a, 0x3a},              // FEATURE_CONTROL: VMX and SGX
    {0xc1, 0xd2},              // PERFCTRn
    {0x10a, 0x10a},            // ARCH_CAPABILITIES
    {0x186, 0x197},            // PERFEVTSELn
    {0x1c4, 0x1c5},            // XFD, XFD_ERR
    {0x309, 0x30c},            // fixed counters
    {0x345, 0x345},            // PERF_CAPABILITIES
    {0x38d, 0x391},            // PERF_GLOBAL_*
    {0x3f1, 0x3f2},            // PEBS
    {0x480, 0x493},            // VMX capabilities
    {0x4c1, 0x4d2},            // PMCn
    {0x560, 0x587},            // processor trace
    {0x600, 0x600},            // DS_AREA
    {0x40000000, 0x400001ff},  // Hyper-V
    {0x4b564d02, 0x4b564d03},  // asynchronous page faults, steal time
    {0x4b564d05, 0x4b564d08},  // poll control, asynchronous page faults, migration control
    {0xc0000300, 0xc0000303},  // AMD PerfMonV2
    {0xc0010000, 0xc0010007},  // K7 counters
    {0xc0010114, 0xc0010117},  // SVM
    {0xc0010200, 0xc001020f},  // AMD core counters
};

// MTRRs and PAT: kernels before 6.3 do not list the former.
constexpr MsrRange kAlwaysSaved[] = {{0x200, 0x20f}, {0x250, 0x250}, {0x258, 0x259},
                                     {0x268, 0x26f}, {0x277, 0x277}, {0x2ff, 0x2ff}};

bool is_saved(uint32_t index) {
  return std::none_of(std::begin(kNotSaved), std::end(kNotSaved),
                      [index](const MsrRange& range) { return index >= range.first && index <= range.last; });
}

std::string hex(uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%x", value);
  return text;
}

// Reads `msrs` and leaves out those that the vCPU does not have: KVM stops at each of them.
Status save_msrs(const Vcpu& vcpu, std::span<const uint32_t> msrs, VcpuState& state) {
  std::vector<kvm_msr_entry> wanted;
  for (const uint32_t index : msrs.first(std::min(msrs.size(), kMaxSavedMsrs))) wanted.push_back({index, 0, 0});
  for (size_t at = 0; at < wanted.size(); ++at) {
    const std::span<kvm_msr_entry> rest = std::span(wanted).subspan(at);
    const size_t got = GRANARY_TRY(vcpu.get_msrs(rest));
    std::copy_n(rest.begin(), got, state.msrs.begin() + state.msr_count);
    state.msr_count += static_cast<uint32_t>(got);
    at += got;  // the refused one, skipped by ++at
  }
  return ok();
}

Status restore_msrs(Vcpu& vcpu, const VcpuState& state) {
  const std::span<const kvm_msr_entry> msrs = std::span(state.msrs).first(state.msr_count);
  const Result<size_t> done = vcpu.set_msrs(msrs);
  if (!done) return Error(Errc::kSnapshotRestoreFailed, done.error().message());
  if (*done == msrs.size()) return ok();
  return Error(Errc::kSnapshotRestoreFailed, "KVM_SET_MSRS refused a value for MSR " + hex(msrs[*done].index) +
                                                 " of vCPU " + std::to_string(state.id) + "; rebuild the template");
}

Status check_counts(const Vcpu& vcpu, const VcpuState& state) {
  std::string what;
  if (state.id != vcpu.id())
    what = "vCPU id " + std::to_string(state.id) + " where " + std::to_string(vcpu.id()) + " belongs";
  if (state.msr_count > kMaxSavedMsrs) what = std::to_string(state.msr_count) + " MSRs, at most 256";
  if (state.xsave_bytes > kMaxXsaveBytes || state.xsave_bytes != vcpu.xsave_size()) {
    what = std::to_string(state.xsave_bytes) + " bytes of extended state where this host has " +
           std::to_string(vcpu.xsave_size());
  }
  if (what.empty()) return ok();
  return Error(Errc::kSnapshotCorrupt, what + "; rebuild the template");
}

Status restore_tsc_khz(Vcpu& vcpu, uint32_t khz) {
  // Setting it needs TSC scaling, which old CPUs lack; on the host that made the snapshot it is right already.
  if (GRANARY_TRY(vcpu.get_tsc_khz()) == khz) return ok();
  return vcpu.set_tsc_khz(khz);
}

// Whether a part of the state is what a vCPU has that never ran: then there is nothing to set. Each ioctl costs a vCPU
// load.
bool is_reset(const kvm_xcrs& xcrs) {
  return xcrs.nr_xcrs == 1 && xcrs.flags == 0 && xcrs.xcrs[0].xcr == 0 && xcrs.xcrs[0].value == 1;
}
bool is_reset(const kvm_debugregs& registers) {
  constexpr uint64_t kDr6 = 0xffff0ff0;  // AMD APM volume 2, 14.1.3; Intel SDM volume 3, 9.1.1
  constexpr uint64_t kDr7 = 0x400;
  return registers.dr6 == kDr6 && registers.dr7 == kDr7 && registers.flags == 0 &&
         std::all_of(std::begin(registers.db), std::end(registers.db), [](uint64_t db) { return db == 0; });
}
bool is_reset(kvm_vcpu_events events) {
  constexpr kvm_vcpu_events kNothing{};
  constexpr uint32_t kValidFields = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                                    KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM |
                                    KVM_VCPUEVENT_VALID_PAYLOAD;
  events.flags &= ~kValidFields;
  return std::memcmp(&events, &kNothing, sizeof(events)) == 0;
}
bool is_reset(const kvm_mp_state& state, uint32_t vcpu) { return vcpu == 0 && state.mp_state == KVM_MP_STATE_RUNNABLE; }

}  // namespace

Result<std::vector<uint32_t>> msrs_to_save(const Kvm& kvm) {
  std::vector<uint32_t> msrs = GRANARY_TRY(kvm.get_msr_index_list());
  std::erase_if(msrs, [](uint32_t index) { return !is_saved(index) || index == kTsc || index == kTscDeadline; });
  for (const MsrRange& range : kAlwaysSaved) {
    for (uint32_t index = range.first; index <= range.last; ++index) {
      if (std::find(msrs.begin(), msrs.end(), index) == msrs.end()) msrs.push_back(index);
    }
  }
  msrs.insert(msrs.begin(), kTsc);
  msrs.push_back(kTscDeadline);
  if (msrs.size() > kMaxSavedMsrs) {
    return Error(Errc::kNotSupported,
                 "this kernel's KVM lists " + std::to_string(msrs.size()) + " MSRs to save, at most 256");
  }
  return msrs;
}

Result<VcpuState> save(const Vcpu& vcpu, std::span<const uint32_t> msrs) {
  VcpuState state{};
  if (vcpu.xsave_size() > kMaxXsaveBytes) {
    return Error(Errc::kNotSupported,
                 std::to_string(vcpu.xsave_size()) + " bytes of extended CPU state, at most 16384");
  }
  state.id = vcpu.id();
  state.xsave_bytes = static_cast<uint32_t>(vcpu.xsave_size());
  // First, because reading it may deliver a pending INIT or start-up IPI, which changes the rest.
  state.mp_state = GRANARY_TRY(vcpu.get_mp_state());
  state.tsc_khz = GRANARY_TRY(vcpu.get_tsc_khz());
  state.regs = GRANARY_TRY(vcpu.get_regs());
  state.sregs = GRANARY_TRY(vcpu.get_sregs());
  state.debugregs = GRANARY_TRY(vcpu.get_debugregs());
  state.xcrs = GRANARY_TRY(vcpu.get_xcrs());
  GRANARY_TRY(vcpu.get_xsave(state.xsave));
  state.lapic = GRANARY_TRY(vcpu.get_lapic());
  GRANARY_TRY(save_msrs(vcpu, msrs, state));
  state.events = GRANARY_TRY(vcpu.get_vcpu_events());
  return state;
}

Status restore(Vcpu& vcpu, const VcpuState& state) {
  GRANARY_TRY(check_counts(vcpu, state));
  GRANARY_TRY(as_restore_error(restore_tsc_khz(vcpu, state.tsc_khz)));
  // CR4.OSXSAVE allows XCR0, XCR0 decides what the XSAVE area may hold; the LAPIC needs the APIC base; the TSC deadline
  // needs the LAPIC's timer mode. Registers drop pending exceptions, so events come after them.
  GRANARY_TRY(as_restore_error(vcpu.set_sregs(state.sregs)));
  if (!is_reset(state.xcrs)) GRANARY_TRY(as_restore_error(vcpu.set_xcrs(state.xcrs)));
  GRANARY_TRY(as_restore_error(vcpu.set_xsave(std::span(state.xsave).first(state.xsave_bytes))));
  GRANARY_TRY(as_restore_error(vcpu.set_regs(state.regs)));
  if (!is_reset(state.debugregs)) GRANARY_TRY(as_restore_error(vcpu.set_debugregs(state.debugregs)));
  GRANARY_TRY(as_restore_error(vcpu.set_lapic(state.lapic)));
  GRANARY_TRY(restore_msrs(vcpu, state));
  if (!is_reset(state.events)) GRANARY_TRY(as_restore_error(vcpu.set_vcpu_events(state.events)));
  if (is_reset(state.mp_state, state.id)) return ok();
  return as_restore_error(vcpu.set_mp_state(state.mp_state));
}

}  // namespace granary::kvm
