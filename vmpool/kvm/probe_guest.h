// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "vmpool/base/guest_memory.h"
#include "vmpool/kvm/kvm.h"

namespace granary::kvm::probe {

enum class Mode { kReal16, kLong64 };

struct Program {
  Mode mode = Mode::kLong64;
  std::span<const uint8_t> code{};    // at kCode, CPL 0
  std::span<const uint8_t> second{};  // at kSecondCode; also the handler of kInterruptVector
  std::span<const uint8_t> user{};    // at kUserCode
  uint64_t cr4 = 0;                   // besides PAE and OSFXSR
};

inline constexpr uint8_t kInterruptVector = 0x30;
inline constexpr uint32_t kInterruptGsi = 5;

// A VM of one vCPU and 1 MiB of memory that runs one tiny program, for the preflight's probes. Not thread-safe.
class Guest {
 public:
  static Result<Guest> create(const Kvm& kvm, const Program& program);
  // The same VM shape on the same memory, with nothing loaded: for a restore.
  Result<Guest> sibling(const Kvm& kvm);

  // Runs until the guest writes a mark and returns it; an error says what happened instead: another exit, a triple
  // fault, an instruction KVM cannot emulate, or no exit within five seconds (kDeadlineExceeded).
  Result<uint8_t> run_to_mark();
  // Lets KVM finish the OUT of the last mark, so that the registers are those after it.
  Status complete_exit();
  // Every signal of the eventfd becomes kInterruptVector.
  Status route_interrupt(int eventfd);

  [[nodiscard]] Vcpu& vcpu() { return vcpu_; }
  [[nodiscard]] Vm& vm() { return vm_; }

 private:
  Guest(std::shared_ptr<GuestMemory> memory, Vm vm, Vcpu vcpu)
      : memory_(std::move(memory)), vm_(std::move(vm)), vcpu_(std::move(vcpu)) {}
  static Result<Guest> create_on(const Kvm& kvm, std::shared_ptr<GuestMemory> memory);
  Status load(const Program& program);

  std::shared_ptr<GuestMemory> memory_;  // shared with siblings, must outlive the VM
  Vm vm_;
  Vcpu vcpu_;
};

}  // namespace granary::kvm::probe
