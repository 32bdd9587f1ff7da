// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/kvm.h>
#include <signal.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmpool/base/fd.h"
#include "vmpool/base/mapping.h"

namespace granary::kvm {

// One virtual CPU: one typed method per vCPU ioctl, named after it, and the kvm_run page. Owns its descriptor and the
// mapping of the page. Every method belongs to one thread at a time (KVM serialises, and a vCPU inside run() makes the
// others wait), except request_immediate_exit().
class Vcpu {
 public:
  enum class RunOutcome {
    kExit,         // the guest left for the reason in kvm_run().exit_reason
    kInterrupted,  // a signal, immediate_exit, or a vCPU that waits for its start-up IPI: nothing to handle, run again
  };
  // Runs the guest. An errno other than EINTR and EAGAIN is an error; the VM cannot go on.
  Result<RunOutcome> run();

  // Shared with the kernel; valid as long as this object. What the kernel writes there is trustworthy, what a guest put
  // into its I/O data is not.
  [[nodiscard]] struct kvm_run& kvm_run() const { return *reinterpret_cast<struct kvm_run*>(run_page_.data()); }
  // The data of a KVM_EXIT_IO exit (size * count bytes); empty if the exit is another one or out of bounds.
  [[nodiscard]] std::span<std::byte> io_data() const;
  // From any thread and from signal handlers: 1 makes run() return kInterrupted before it enters the guest, until 0 is
  // stored. To stop a vCPU that is in the guest: store 1, then send its thread a signal.
  void request_immediate_exit(bool on) const {
    __atomic_store_n(&kvm_run().immediate_exit, on ? 1 : 0, __ATOMIC_SEQ_CST);
  }

  [[nodiscard]] Result<kvm_regs> get_regs() const;
  Status set_regs(const kvm_regs& regs);
  [[nodiscard]] Result<kvm_sregs> get_sregs() const;
  Status set_sregs(const kvm_sregs& sregs);
  [[nodiscard]] Result<kvm_fpu> get_fpu() const;
  Status set_fpu(const kvm_fpu& fpu);
  // Bytes of extended state of this VM's vCPUs (KVM_CAP_XSAVE2; 4096 without it).
  [[nodiscard]] size_t xsave_size() const { return xsave_size_; }
  // KVM_GET_XSAVE2 where there is more than 4096 bytes of state, else KVM_GET_XSAVE. `into` has at least xsave_size()
  // bytes, else EMSGSIZE; so has `from`.
  Status get_xsave(std::span<std::byte> into) const;
  Status set_xsave(std::span<const std::byte> from);
  [[nodiscard]] Result<kvm_xcrs> get_xcrs() const;
  Status set_xcrs(const kvm_xcrs& xcrs);
  // At most kMaxMsrs entries. Returns how many were read or written: KVM stops at the first it refuses.
  static constexpr size_t kMaxMsrs = 256;
  [[nodiscard]] Result<size_t> get_msrs(std::span<kvm_msr_entry> entries) const;
  Result<size_t> set_msrs(std::span<const kvm_msr_entry> entries);
  // One MSR; an error names it.
  [[nodiscard]] Result<uint64_t> get_msr(uint32_t index) const;
  Status set_msr(uint32_t index, uint64_t value);
  [[nodiscard]] Result<kvm_lapic_state> get_lapic() const;
  Status set_lapic(const kvm_lapic_state& lapic);
  [[nodiscard]] Result<kvm_mp_state> get_mp_state() const;
  Status set_mp_state(const kvm_mp_state& state);
  [[nodiscard]] Result<kvm_vcpu_events> get_vcpu_events() const;
  Status set_vcpu_events(const kvm_vcpu_events& events);
  [[nodiscard]] Result<kvm_debugregs> get_debugregs() const;
  Status set_debugregs(const kvm_debugregs& regs);
  // At most kMaxCpuidEntries. Before the first run().
  static constexpr size_t kMaxCpuidEntries = 256;
  Status set_cpuid2(std::span<const kvm_cpuid_entry2> entries);
  [[nodiscard]] Result<std::vector<kvm_cpuid_entry2>> get_cpuid2() const;
  [[nodiscard]] Result<uint32_t> get_tsc_khz() const;
  Status set_tsc_khz(uint32_t khz);
  // Tells the guest's watchdogs that it was stopped (KVM_KVMCLOCK_CTRL). False: the guest has not enabled kvmclock.
  Result<bool> kvmclock_ctrl();
  // The signals that are blocked while the guest runs; nullptr: the thread's own mask.
  Status set_signal_mask(const sigset_t* mask);
  Status nmi();

  [[nodiscard]] uint32_t id() const { return id_; }
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  friend class Vm;
  Vcpu(Fd fd, Mapping run_page, uint32_t id, size_t xsave_size)
      : fd_(std::move(fd)), run_page_(std::move(run_page)), id_(id), xsave_size_(xsave_size) {}

  Fd fd_;
  Mapping run_page_;
  uint32_t id_;
  size_t xsave_size_;
};

}  // namespace granary::kvm
