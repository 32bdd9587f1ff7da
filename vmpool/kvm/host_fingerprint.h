// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "vmpool/kvm/kvm.h"

namespace granary::kvm {

// What of the host a snapshot depends on: part of the template key. Another value means rebuild, never load.
struct HostFingerprint {
  std::string cpu_vendor;  // "GenuineIntel", "AuthenticAMD" …
  uint32_t cpu_family = 0;
  uint32_t cpu_model = 0;
  uint32_t cpu_stepping = 0;
  std::string microcode;  // as in /proc/cpuinfo; "none" where the kernel does not say
  std::string kernel_release;
  std::string kernel_version;         // build number and date: two builds of one release differ
  uint64_t supported_cpuid_hash = 0;  // FNV-1a over the sorted table, without the fields that differ between host CPUs
  uint32_t tsc_khz = 0;
};

Result<HostFingerprint> read_host_fingerprint(const Kvm& kvm);

// "cpu_vendor=…\ncpu_family=…\n…": stable, one field a line, for hashing and for people.
std::string to_text(const HostFingerprint& host);

}  // namespace granary::kvm
