// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "vmpool/base/units.h"

// Where the boot room puts things below 1 MiB. Nothing here is read again once the kernel runs, except the ACPI area.
namespace granary::boot::layout {

inline constexpr Gpa kGdt{0x500};
inline constexpr Gpa kStartInfo{0x6000};  // hvm_start_info, then its module list
inline constexpr Gpa kModuleList{0x6040};
inline constexpr Gpa kMemoryMap{0x6080};   // of the PVH protocol
inline constexpr Gpa kBootParams{0x7000};  // "zero page", 4096 bytes
inline constexpr Gpa kStackTop{0x8ff0};
inline constexpr Gpa kPml4{0x9000};
inline constexpr Gpa kPdpt{0xa000};
inline constexpr Gpa kPageDirectories{0xb000};  // four of them: identity map of the low 4 GiB in 2 MiB pages
inline constexpr Gpa kCommandLine{0x2'0000};    // 2048 bytes
inline constexpr Gpa kEbda{0x9'fc00};           // reserved from here to 1 MiB
inline constexpr Gpa kAcpi{0xe'0000};
inline constexpr Gpa kAcpiEnd{0xe'f000};  // the VMGenID page follows
inline constexpr Gpa kHighMemory{0x10'0000};

}  // namespace granary::boot::layout
