// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <cstdint>

namespace granary {

// A guest physical address.
struct Gpa {
  uint64_t value = 0;
  friend auto operator<=>(Gpa, Gpa) = default;
  friend Gpa operator+(Gpa a, uint64_t bytes) { return {a.value + bytes}; }
};

// A virtual machine's number: chosen by the spawner, never used twice in its life, 0 = none.
struct VmId {
  uint64_t value = 0;
  friend auto operator<=>(VmId, VmId) = default;
};

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;
inline constexpr uint64_t kPageSize = 4096;

}  // namespace granary
