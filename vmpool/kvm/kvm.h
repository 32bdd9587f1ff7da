// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vmpool/base/fd.h"
#include "vmpool/kvm/vm.h"

namespace granary::kvm {

using CpuidTable = std::vector<kvm_cpuid_entry2>;

// /dev/kvm: what the host offers, and the maker of VMs. One typed method per system ioctl (Linux,
// Documentation/virt/kvm/api.rst, section 4), named after it. Owns its descriptor; immutable, so usable from any
// thread. x86-64 only.
class Kvm {
 public:
  // Opens `path` and checks that it is KVM with API version 12; kKvmUnavailable with the remedy otherwise.
  static Result<Kvm> open(const std::string& path = "/dev/kvm");
  // The same for a descriptor that somebody else opened (a jailed VMM gets one).
  static Result<Kvm> from(Fd fd);

  [[nodiscard]] Result<int> get_api_version() const;
  // 0 = absent; the meaning of other values is the capability's own.
  [[nodiscard]] Result<int> check_extension(int capability) const;
  [[nodiscard]] Result<CpuidTable> get_supported_cpuid() const;
  [[nodiscard]] Result<std::vector<uint32_t>> get_msr_index_list() const;
  // Values of MSR-based features that the host offers to guests (KVM_GET_MSRS on the system descriptor); ENOENT when
  // the index is not one of them.
  [[nodiscard]] Result<uint64_t> get_feature_msr(uint32_t index) const;
  [[nodiscard]] Result<size_t> get_vcpu_mmap_size() const;
  [[nodiscard]] Result<Vm> create_vm() const;

  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  explicit Kvm(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace granary::kvm
