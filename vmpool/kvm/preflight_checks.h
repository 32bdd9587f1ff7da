// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "vmpool/kvm/kvm.h"
#include "vmpool/kvm/preflight.h"

// Internal to the preflight: the check functions behind its table.
namespace granary::kvm {

inline Check passed(std::string detail) { return {"", Check::Verdict::kOk, std::move(detail), ""}; }
inline Check degraded(std::string detail, std::string remedy) {
  return {"", Check::Verdict::kDegraded, std::move(detail), std::move(remedy)};
}
inline Check unusable(std::string detail, std::string remedy) {
  return {"", Check::Verdict::kUnusable, std::move(detail), std::move(remedy)};
}

struct NamedCheck {
  const char* name;
  Check (*run)();
};
struct NamedKvmCheck {
  const char* name;
  Check (*run)(const Kvm& kvm);
};

std::vector<Check> check_capabilities(const Kvm& kvm);
std::vector<Check> check_guests(const Kvm& kvm);  // tiny guests
std::vector<Check> check_host();                  // without KVM

}  // namespace granary::kvm
