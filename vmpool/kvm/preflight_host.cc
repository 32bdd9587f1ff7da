// SPDX-License-Identifier: Apache-2.0
#include <cpuid.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/vfs.h>

#include <array>
#include <cstdlib>
#include <string_view>

#include "vmpool/base/units.h"
#include "vmpool/kvm/preflight_checks.h"

namespace granary::kvm {
namespace {

constexpr uint64_t kComfortableMemory = 1 * kGiB;
constexpr rlim_t kComfortableFiles = 65536;
constexpr uint64_t kComfortablePids = 4096;

// The number behind "MemAvailable:" and the like, in bytes; 0 when absent.
uint64_t meminfo_bytes(const std::string& text, std::string_view key) {
  const size_t at = text.find(key);
  if (at == std::string::npos) return 0;
  return std::strtoull(text.c_str() + at + key.size(), nullptr, 10) * kKiB;
}

Check memory() {
  const Result<std::string> text = read_file("/proc/meminfo");
  if (!text) return degraded(text.error().message(), "mount /proc");
  const uint64_t available = meminfo_bytes(*text, "MemAvailable:");
  const std::string found = std::to_string(available / kMiB) + " MiB available";
  if (available >= kComfortableMemory) return passed(found);
  return degraded(found, "free memory: a small pool needs about 1024 MiB");
}

Check cgroups() {
  struct statfs info {};
  if (::statfs("/sys/fs/cgroup", &info) != 0) {
    return degraded("no cgroups at /sys/fs/cgroup", "mount the cgroup v2 tree there");
  }
  const Result<std::string> controllers = read_file("/sys/fs/cgroup/cgroup.controllers");
  if (info.f_type != CGROUP2_SUPER_MAGIC || !controllers) {
    return degraded("cgroup v1: pages cannot be charged at birth", "boot with systemd.unified_cgroup_hierarchy=1");
  }
  std::string names = *controllers;
  while (!names.empty() && names.back() == '\n') names.pop_back();
  if (names.find("memory") == std::string::npos) {
    return degraded("cgroup v2 without the memory controller (" + names + ")", "enable it in cgroup.subtree_control");
  }
  return passed("cgroup v2: " + names);
}

std::string limit_text(rlim_t value) { return value == RLIM_INFINITY ? "unlimited" : std::to_string(value); }

Check open_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return degraded("RLIMIT_NOFILE cannot be read", "see getrlimit(2)");
  const std::string found = "at most " + limit_text(limit.rlim_max) + " open files";
  if (limit.rlim_max >= kComfortableFiles) return passed(found);
  return degraded(found, "raise LimitNOFILE to 65536 or more: a VM takes about 40");
}

Check locked_memory() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return degraded("RLIMIT_MEMLOCK cannot be read", "see getrlimit(2)");
  const std::string bytes = limit.rlim_max == RLIM_INFINITY ? "unlimited" : std::to_string(limit.rlim_max) + " bytes";
  return passed(bytes + " may be locked; nothing is");
}

Check processes() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NPROC, &limit) != 0) return degraded("RLIMIT_NPROC cannot be read", "see getrlimit(2)");
  const Result<std::string> text = read_file("/proc/sys/kernel/pid_max");
  const uint64_t system = text ? std::strtoull(text->c_str(), nullptr, 10) : 0;
  const std::string found = "pid_max " + std::to_string(system) + ", per user " + limit_text(limit.rlim_max);
  if (system >= kComfortablePids && limit.rlim_max >= kComfortablePids) return passed(found);
  return degraded(found, "allow 4096 processes or more: a VM takes up to 11 threads");
}

Check hypervisor() {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & 1U << 31) == 0)
    return passed("not virtualised: hardware speed");
  __cpuid(0x4000'0000, eax, ebx, ecx, edx);
  const std::array<uint32_t, 3> words = {ebx, ecx, edx};
  std::string name(reinterpret_cast<const char*>(words.data()), sizeof(words));
  while (!name.empty() && name.back() == '\0') name.pop_back();
  if (name == "TCGTCGTCGTCG") return passed("emulated by QEMU without KVM: guests run, times mean nothing");
  return passed("a virtual machine itself (" + name + "): nested guests are slower");
}

constexpr NamedCheck kHostChecks[] = {
    {"host.hypervisor", hypervisor},
    {"host.memory", memory},
    {"host.cgroup", cgroups},
    {"host.limit.open_files", open_files},
    {"host.limit.locked_memory", locked_memory},
    {"host.limit.processes", processes},
};

}  // namespace

std::vector<Check> check_host() {
  std::vector<Check> checks;
  for (const NamedCheck& named : kHostChecks) {
    Check check = named.run();
    check.name = named.name;
    checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace granary::kvm
