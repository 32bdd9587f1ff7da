// SPDX-License-Identifier: Apache-2.0
#include "vmpool/kvm/kvm.h"

#include <fcntl.h>

#include <memory>

#include "vmpool/kvm/ioctl.h"

namespace granary::kvm {
namespace {

constexpr int kApiVersion = 12;
constexpr size_t kMaxListedMsrs = 1024;
constexpr size_t kLegacyXsaveSize = 4096;

std::string remedy_for_open(int error) {
  switch (error) {
    case ENOENT:
      return "load the module kvm_intel or kvm_amd, or switch on virtualisation in firmware";
    case EACCES:
    case EPERM:
      return "run as root, or put the user into the group that owns the device";
    case EBUSY:
      return "another hypervisor holds the CPU's virtualisation; unload it";
    case ENODEV:
    case ENXIO:
      return "the CPU has no virtualisation or firmware switched it off";
    default:
      return "see the kernel log";
  }
}

}  // namespace

Result<Kvm> Kvm::open(const std::string& path) {
  Result<Fd> fd = open_file(path, O_RDWR);
  if (!fd) {
    const int error = fd.error().code().value();
    return Error(Errc::kKvmUnavailable, fd.error().message() + "; " + remedy_for_open(error));
  }
  return from(*std::move(fd));
}

Result<Kvm> Kvm::from(Fd fd) {
  Kvm kvm(std::move(fd));
  const Result<int> version = kvm.get_api_version();
  if (!version) return Error(Errc::kKvmUnavailable, version.error().message() + "; this is not a KVM device");
  if (*version != kApiVersion) {
    return Error(Errc::kKvmUnavailable,
                 "KVM API version " + std::to_string(*version) + ", wanted 12; use a current kernel");
  }
  return kvm;
}

Result<int> Kvm::get_api_version() const { return call_value(fd(), "KVM_GET_API_VERSION", KVM_GET_API_VERSION); }

Result<int> Kvm::check_extension(int capability) const {
  return call_value(fd(), "KVM_CHECK_EXTENSION", KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability));
}

Result<CpuidTable> Kvm::get_supported_cpuid() const {
  Counted<kvm_cpuid_entry2, Vcpu::kMaxCpuidEntries> table{};
  table.count = Vcpu::kMaxCpuidEntries;
  GRANARY_TRY(call(fd(), "KVM_GET_SUPPORTED_CPUID", GRANARY_KVM_GET_SUPPORTED_CPUID, &table));
  return CpuidTable(table.elements.begin(), table.elements.begin() + table.count);
}

Result<std::vector<uint32_t>> Kvm::get_msr_index_list() const {
  struct {
    uint32_t count = kMaxListedMsrs;
    std::array<uint32_t, kMaxListedMsrs> indices{};
  } list;
  GRANARY_TRY(call(fd(), "KVM_GET_MSR_INDEX_LIST", GRANARY_KVM_GET_MSR_INDEX_LIST, &list));
  return std::vector<uint32_t>(list.indices.begin(), list.indices.begin() + list.count);
}

Result<uint64_t> Kvm::get_feature_msr(uint32_t index) const {
  Counted<kvm_msr_entry, 1> msrs{};
  msrs.count = 1;
  msrs.elements[0].index = index;
  const int got = GRANARY_TRY(call(fd(), "KVM_GET_MSRS", GRANARY_KVM_GET_MSRS, &msrs, "of the host"));
  if (got != 1) return Error::from_errno(ENOENT, "KVM_GET_MSRS: no feature MSR " + std::to_string(index));
  return msrs.elements[0].data;
}

Result<size_t> Kvm::get_vcpu_mmap_size() const {
  const int size = GRANARY_TRY(call_value(fd(), "KVM_GET_VCPU_MMAP_SIZE", KVM_GET_VCPU_MMAP_SIZE));
  if (static_cast<size_t>(size) < sizeof(kvm_run)) {
    return Error(Errc::kKvmUnavailable, "KVM_GET_VCPU_MMAP_SIZE " + std::to_string(size) + " is smaller than kvm_run");
  }
  return static_cast<size_t>(size);
}

Result<Vm> Kvm::create_vm() const {
  const size_t mmap_size = GRANARY_TRY(get_vcpu_mmap_size());
  int made = -1;
  // Interrupted when the process gets a signal while KVM registers its notifier; the call is harmless to repeat.
  do {
    made = ::ioctl(fd(), KVM_CREATE_VM, 0UL);
  } while (made < 0 && errno == EINTR);
  if (made < 0) return ioctl_error("KVM_CREATE_VM");
  Vm vm(Fd(made), mmap_size, kLegacyXsaveSize);
  const int xsave = GRANARY_TRY(vm.check_extension(KVM_CAP_XSAVE2));
  vm.xsave_size_ = std::max(kLegacyXsaveSize, static_cast<size_t>(xsave));
  return vm;
}

}  // namespace granary::kvm
