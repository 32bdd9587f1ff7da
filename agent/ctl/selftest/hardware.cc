// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/hardware.h"

#include <cpuid.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace granary::ctl::selftest {
namespace {

constexpr unsigned kHypervisorLeaf = 0x4000'0000;
constexpr const char* kEmulator = "TCGTCGTCGTCG";

// "model name	: AMD EPYC" -> "AMD EPYC"
std::string cpu_line(const std::string& name) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with(name) && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

bool has(const Cpu& cpu, const std::string& flag) {
  return (" " + cpu.flags + " ").find(" " + flag + " ") != std::string::npos;
}

// Twelve bytes in EBX, ECX and EDX, padded with zeroes.
std::string hypervisor_name() {
  unsigned words[4] = {};
  __cpuid(kHypervisorLeaf, words[0], words[1], words[2], words[3]);
  char text[13] = {};
  std::memcpy(text, &words[1], 12);
  std::string name = text;
  std::ranges::replace_if(
      name, [](char c) { return c < ' ' || c > '~'; }, '?');
  return name.empty() ? "unnamed" : name;
}

}  // namespace

Cpu this_cpu() {
  Cpu cpu{.model = cpu_line("model name"), .flags = cpu_line("flags"), .kvm = {}, .hypervisor = {}};
  for (const char* module : {"kvm_intel", "kvm_amd"}) {
    std::error_code code;
    if (std::filesystem::exists(std::string("/sys/module/") + module, code)) cpu.kvm = module;
  }
  if (has(cpu, "hypervisor")) cpu.hypervisor = hypervisor_name();
  return cpu;
}

std::string why_no_hardware(const Cpu& cpu) {
  if (cpu.hypervisor == kEmulator)
    return "no hardware: this CPU is emulated by QEMU, and so is its KVM; without --hardware the steps run here too";
  if (!has(cpu, "vmx") && !has(cpu, "svm"))
    return "no hardware: this CPU offers neither VMX nor SVM, so KVM here is software or absent; a virtual machine "
           "needs nested virtualisation";
  if (cpu.kvm.empty())
    return "no hardware: neither kvm_intel nor kvm_amd is loaded, so /dev/kvm is another's or absent; modprobe the "
           "CPU's";
  return "";
}

}  // namespace granary::ctl::selftest
