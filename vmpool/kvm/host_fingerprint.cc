// SPDX-License-Identifier: Apache-2.0
#include "vmpool/kvm/host_fingerprint.h"

#include <cpuid.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstring>
#include <span>
#include <tuple>

namespace granary::kvm {
namespace {

void read_cpu(HostFingerprint& host) {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(0, &eax, &ebx, &ecx, &edx) != 0) {
    const std::array<uint32_t, 3> words = {ebx, edx, ecx};
    host.cpu_vendor.assign(reinterpret_cast<const char*>(words.data()), sizeof(words));
  }
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return;
  const uint32_t family = eax >> 8 & 0xf;
  host.cpu_family = family == 0xf ? family + (eax >> 20 & 0xff) : family;
  host.cpu_model = (eax >> 4 & 0xf) | (eax >> 16 & 0xf) << 4;
  host.cpu_stepping = eax & 0xf;
}

// The value behind "microcode\t: " of the first processor.
std::string microcode_of(const std::string& cpuinfo) {
  const size_t at = cpuinfo.find("\nmicrocode");
  const size_t colon = at == std::string::npos ? at : cpuinfo.find(": ", at);
  if (colon == std::string::npos) return "none";
  return cpuinfo.substr(colon + 2, cpuinfo.find('\n', colon) - colon - 2);
}

// Leaves that tell which of the host's CPUs answered (APIC ids) would make every hash different.
void drop_cpu_identity(kvm_cpuid_entry2& e) {
  if (e.function == 0x1) e.ebx &= 0x00ff'ffff;
  if (e.function == 0xb || e.function == 0x1f || e.function == 0x8000'0026) e.edx = 0;
  if (e.function == 0x8000'001e) e.eax = e.ebx = e.ecx = 0;
  if (e.function == 0xd && e.index <= 1) e.ebx = 0;  // size for the caller's current XCR0
}

uint64_t hash_of(CpuidTable table) {
  constexpr uint64_t kOffset = 0xcbf2'9ce4'8422'2325;
  constexpr uint64_t kPrime = 0x100'0000'01b3;
  std::sort(table.begin(), table.end(), [](const kvm_cpuid_entry2& a, const kvm_cpuid_entry2& b) {
    return std::tie(a.function, a.index) < std::tie(b.function, b.index);
  });
  uint64_t hash = kOffset;
  for (kvm_cpuid_entry2& e : table) {
    drop_cpu_identity(e);
    for (const uint32_t word : {e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx}) {
      hash = (hash ^ word) * kPrime;
    }
  }
  return hash;
}

}  // namespace

Result<HostFingerprint> read_host_fingerprint(const Kvm& kvm) {
  HostFingerprint host;
  read_cpu(host);
  // A machine with hundreds of CPUs has a long file.
  host.microcode = microcode_of(GRANARY_TRY(read_file("/proc/cpuinfo", size_t{16} << 20)));
  utsname names{};
  if (::uname(&names) != 0) return Error::last_os_error("uname");
  host.kernel_release = names.release;
  host.kernel_version = names.version;
  host.supported_cpuid_hash = hash_of(GRANARY_TRY(kvm.get_supported_cpuid()));
  const Vm vm = GRANARY_TRY(kvm.create_vm());
  host.tsc_khz = GRANARY_TRY(GRANARY_TRY(vm.create_vcpu(0)).get_tsc_khz());
  return host;
}

std::string to_text(const HostFingerprint& host) {
  std::array<char, 24> hash{};
  std::snprintf(hash.data(), hash.size(), "%016" PRIx64, host.supported_cpuid_hash);
  return "cpu_vendor=" + host.cpu_vendor + "\ncpu_family=" + std::to_string(host.cpu_family) +
         "\ncpu_model=" + std::to_string(host.cpu_model) + "\ncpu_stepping=" + std::to_string(host.cpu_stepping) +
         "\nmicrocode=" + host.microcode + "\nkernel_release=" + host.kernel_release +
         "\nkernel_version=" + host.kernel_version + "\nsupported_cpuid=" + hash.data() +
         "\ntsc_khz=" + std::to_string(host.tsc_khz) + "\n";
}

}  // namespace granary::kvm
