// SPDX-License-Identifier: Apache-2.0
#include "vmpool/kvm/preflight.h"

#include <algorithm>

#include "vmpool/base/machine_layout.h"
#include "vmpool/kvm/preflight_checks.h"

namespace granary::kvm {
namespace {

struct Capability {
  int number;
  const char* name;
  const char* purpose;
};

#define GRANARY_CAPABILITY(name, purpose) \
  Capability { name, #name, purpose }
constexpr Capability kRequired[] = {
    GRANARY_CAPABILITY(KVM_CAP_USER_MEMORY, "guest memory"),
    GRANARY_CAPABILITY(KVM_CAP_SYNC_MMU, "copy-on-write guest memory"),
    GRANARY_CAPABILITY(KVM_CAP_IRQCHIP, "interrupt controllers in the kernel"),
    GRANARY_CAPABILITY(KVM_CAP_IRQFD, "interrupts by eventfd"),
    GRANARY_CAPABILITY(KVM_CAP_EXT_CPUID, "CPUID tables"),
    GRANARY_CAPABILITY(KVM_CAP_SET_TSS_ADDR, "real mode on Intel"),
    GRANARY_CAPABILITY(KVM_CAP_SET_IDENTITY_MAP_ADDR, "real mode on Intel"),
    GRANARY_CAPABILITY(KVM_CAP_TSC_DEADLINE_TIMER, "the guest's timer"),
    GRANARY_CAPABILITY(KVM_CAP_ADJUST_CLOCK, "the guest's clock"),
    GRANARY_CAPABILITY(KVM_CAP_KVMCLOCK_CTRL, "the guest's clock after a pause"),
    GRANARY_CAPABILITY(KVM_CAP_GET_TSC_KHZ, "the guest's clock"),
    GRANARY_CAPABILITY(KVM_CAP_MP_STATE, "snapshots"),
    GRANARY_CAPABILITY(KVM_CAP_VCPU_EVENTS, "snapshots"),
    GRANARY_CAPABILITY(KVM_CAP_DEBUGREGS, "snapshots"),
    GRANARY_CAPABILITY(KVM_CAP_XSAVE, "snapshots"),
    GRANARY_CAPABILITY(KVM_CAP_XCRS, "snapshots"),
    GRANARY_CAPABILITY(KVM_CAP_IMMEDIATE_EXIT, "stopping a vCPU"),
};
#undef GRANARY_CAPABILITY

Check check_capability(const Kvm& kvm, const Capability& capability) {
  const Result<int> value = kvm.check_extension(capability.number);
  Check check = value && *value > 0 ? passed("present")
                                    : unusable(std::string("absent; needed for ") + capability.purpose,
                                               "use a host kernel of Linux 5.10 or newer with hardware virtualisation");
  check.name = std::string("kvm.cap.") + capability.name;
  return check;
}

Check check_vcpus(const Kvm& kvm) {
  const Result<int> most = kvm.check_extension(KVM_CAP_MAX_VCPUS);
  const int count = most ? *most : 0;
  Check check = count >= static_cast<int>(machine::kMaxVcpus)
                    ? passed(std::to_string(count) + " vCPUs per VM")
                    : degraded("at most " + std::to_string(count) + " vCPUs per VM", "use shapes with fewer vCPUs");
  check.name = "kvm.max_vcpus";
  return check;
}

}  // namespace

const char* to_string(Check::Verdict verdict) {
  switch (verdict) {
    case Check::Verdict::kOk:
      return "ok";
    case Check::Verdict::kDegraded:
      return "degraded";
    case Check::Verdict::kUnusable:
      return "unusable";
  }
  return "unknown";
}

std::vector<Check> check_capabilities(const Kvm& kvm) {
  std::vector<Check> checks;
  for (const Capability& capability : kRequired) checks.push_back(check_capability(kvm, capability));
  checks.push_back(check_vcpus(kvm));
  return checks;
}

std::vector<Check> run_preflight(const std::string& kvm_path) {
  std::vector<Check> checks;
  const auto add = [&](std::vector<Check> more) {
    checks.insert(checks.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  };
  const Result<Kvm> kvm = Kvm::open(kvm_path);
  if (kvm) {
    checks.push_back({"kvm.device", Check::Verdict::kOk, kvm_path + ", API version 12", ""});
    add(check_capabilities(*kvm));
    // Guests on a KVM that lacks something needed would only repeat that.
    if (can_run_linux(checks)) add(check_guests(*kvm));
  } else {
    // "what failed; what to do"
    const std::string& text = kvm.error().context();
    const size_t split = text.rfind("; ");
    checks.push_back({"kvm.device", Check::Verdict::kUnusable, text.substr(0, split),
                      split == std::string::npos ? "" : text.substr(split + 2)});
  }
  add(check_host());
  return checks;
}

bool can_run_linux(std::span<const Check> checks) {
  return std::none_of(checks.begin(), checks.end(),
                      [](const Check& check) { return check.verdict == Check::Verdict::kUnusable; });
}

std::string extra_command_line(std::span<const Check> checks) {
  const bool xsave = std::none_of(checks.begin(), checks.end(), [](const Check& check) {
    return check.name == "guest.xsave" && check.verdict != Check::Verdict::kOk;
  });
  return xsave ? "" : " noxsave";
}

std::string one_line_verdict(std::span<const Check> checks) {
  const auto bad = std::find_if(checks.begin(), checks.end(),
                                [](const Check& check) { return check.verdict == Check::Verdict::kUnusable; });
  if (bad != checks.end()) {
    return "this host cannot run Linux guests: " + bad->name + ": " + bad->detail + "; " + bad->remedy;
  }
  const auto weak = std::count_if(checks.begin(), checks.end(),
                                  [](const Check& check) { return check.verdict == Check::Verdict::kDegraded; });
  if (weak == 0) return "this host can run Linux guests";
  return "this host can run Linux guests (" + std::to_string(weak) + " of " + std::to_string(checks.size()) +
         " checks degraded)";
}

}  // namespace granary::kvm
