// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace granary::ctl::selftest {

// What this host's CPU says of itself.
struct Cpu {
  std::string model;       // "AMD EPYC 9B14"
  std::string flags;       // of /proc/cpuinfo, between blanks
  std::string kvm;         // the module that is loaded: "kvm_intel", "kvm_amd"; empty: none
  std::string hypervisor;  // CPUID leaf 0x40000000: "KVMKVMKVM", "Microsoft Hv" …; empty on bare metal
};
Cpu this_cpu();

// Why KVM here cannot be the hardware's: the CPU offers neither VMX nor SVM (KVM is software then), or is itself
// emulated by QEMU. Empty: it is, also where a hypervisor lies between (nested).
std::string why_no_hardware(const Cpu& cpu);

}  // namespace granary::ctl::selftest
