// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

namespace granary::kvm {

// One line of `granaryctl doctor`.
struct Check {
  enum class Verdict {
    kOk,
    kDegraded,  // works, but slower, less isolated or with less capacity than it should
    kUnusable,  // Linux guests cannot run on this host
  };
  std::string name;  // "kvm.device", "guest.syscall" … stable, for scripts
  Verdict verdict = Verdict::kOk;
  std::string detail;  // what was found
  std::string remedy;  // what to do; empty when kOk
};
const char* to_string(Check::Verdict verdict);

// Probes this host: the device, the API, each capability by name, tiny guests that really run (each at most five
// seconds, milliseconds on hardware), memory, cgroups and limits. Never fails: what cannot be found out is a check of
// its own. Uses a real-time signal on the calling thread and puts its action and mask back; not from two threads at
// once.
std::vector<Check> run_preflight(const std::string& kvm_path = "/dev/kvm");

// No check is kUnusable.
bool can_run_linux(std::span<const Check> checks);
// What Linux' command line needs beside its own words on this host: " noxsave" where KVM does not see the guest's XSETBV
// (QEMU's SVM emulation) and would lose its SSE registers; else "".
std::string extra_command_line(std::span<const Check> checks);
// "this host can run Linux guests", or the first reason why not with its remedy.
std::string one_line_verdict(std::span<const Check> checks);

}  // namespace granary::kvm
