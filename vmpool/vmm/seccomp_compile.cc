// SPDX-License-Identifier: Apache-2.0
// Runs when Granary is built: turns seccomp_policy.h into BPF programs through libseccomp, so that a VMM only has to
// load them.
//   seccomp-compile           a C++ header with the programs, on standard output
//   seccomp-compile --table   the table of docs/threat-model.md
#include <linux/filter.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "vmpool/vmm/seccomp_policy.h"

namespace granary::vmm::seccomp {
namespace {

int add(scmp_filter_ctx filter, int syscall, const Condition* condition) {
  if (condition == nullptr) return ::seccomp_rule_add_exact_array(filter, SCMP_ACT_ALLOW, syscall, 0, nullptr);
  const scmp_arg_cmp compare{condition->argument, SCMP_CMP_MASKED_EQ, condition->mask, condition->value};
  return ::seccomp_rule_add_exact_array(filter, SCMP_ACT_ALLOW, syscall, 1, &compare);
}

int add_rules(scmp_filter_ctx filter, unsigned threads) {
  int failed = 0;
  for (const Rule& rule : kRules) {
    if ((rule.threads & threads) == 0) continue;
    if (rule.condition_count == 0) failed |= add(filter, rule.syscall, nullptr);
    for (unsigned i = 0; i < rule.condition_count; ++i) failed |= add(filter, rule.syscall, &rule.conditions[i]);
  }
  for (const IoctlRule& rule : kIoctls) {
    const Condition request{1, kAllBits, rule.request};
    if ((rule.threads & threads) != 0) failed |= add(filter, SCMP_SYS(ioctl), &request);
  }
  return failed;
}

// Empty on failure.
std::vector<sock_filter> compile(unsigned threads) {
  const scmp_filter_ctx filter = ::seccomp_init(SCMP_ACT_KILL_PROCESS);
  const int file = ::memfd_create("filter", MFD_CLOEXEC);
  std::vector<sock_filter> program;
  if (filter != nullptr && file >= 0 &&
      ::seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) == 0 &&
      // A binary tree instead of a list.
      ::seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2) == 0 && add_rules(filter, threads) == 0 &&
      ::seccomp_export_bpf(filter, file) == 0) {
    program.resize(static_cast<size_t>(::lseek(file, 0, SEEK_END)) / sizeof(sock_filter));
    const auto bytes = static_cast<ssize_t>(program.size() * sizeof(sock_filter));
    if (::pread(file, program.data(), static_cast<size_t>(bytes), 0) != bytes) program.clear();
  }
  ::seccomp_release(filter);
  ::close(file);
  return program;
}

bool print_program(const char* name, unsigned threads) {
  const std::vector<sock_filter> program = compile(threads);
  if (program.empty()) return false;
  std::printf("inline constexpr sock_filter %s[] = {\n", name);
  for (const sock_filter& op : program) std::printf("    {%u, %u, %u, %u},\n", op.code, op.jt, op.jf, op.k);
  std::printf("};\n\n");
  return true;
}

bool print_header() {
  std::printf("// Generated from vmpool/vmm/seccomp_policy.h.\n#pragma once\n\n#include <linux/filter.h>\n\n");
  std::printf("namespace granary::vmm::seccomp {\n\n");
  // Filters stack, so set-up must allow what the filters after it allow.
  const bool done = print_program("kSetupProgram", kSetup | kEach) && print_program("kLoopProgram", kLoop) &&
                    print_program("kVcpuProgram", kVcpu) && print_program("kWorkerProgram", kWorker);
  std::printf("}  // namespace granary::vmm::seccomp\n");
  return done;
}

std::string names_of(unsigned threads) {
  std::string text;
  const auto add_name = [&](unsigned bit, const char* name) {
    if ((threads & bit) != 0) text += (text.empty() ? "" : ", ") + std::string(name);
  };
  if ((threads & kEach) == kEach) return "all";
  add_name(kLoop, "loop");
  add_name(kVcpu, "vCPU");
  add_name(kWorker, "worker");
  add_name(kSetup, "set-up");
  return text;
}

void print_table() {
  std::printf("| system call | thread | only | why |\n|---|---|---|---|\n");
  for (const Rule& rule : kRules) {
    std::printf("| `%s` | %s | %s | %s |\n", rule.name, names_of(rule.threads).c_str(), rule.only, rule.why);
  }
  std::printf("| `ioctl` | vCPU | KVM_RUN | running the guest |\n");
  std::printf(
      "| `ioctl` | loop | KVM's get and set calls of vCPU and VM state; TUNSETVNETHDRSZ, TUNSETOFFLOAD | park, "
      "snapshot, restore; attaching a tap |\n");
  std::printf(
      "| `ioctl` | set-up | KVM's calls that make a VM, its memory slots, vCPUs and irqfds | making the machine "
      "|\n");
}

}  // namespace
}  // namespace granary::vmm::seccomp

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--table") == 0) {
    granary::vmm::seccomp::print_table();
    return 0;
  }
  if (argc == 1 && granary::vmm::seccomp::print_header()) return 0;
  std::fprintf(stderr, "seccomp-compile: libseccomp refuses the policy\n");
  return 1;
}
