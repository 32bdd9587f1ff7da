// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "vmpool/base/guest_memory.h"

namespace granary::boot {

// Values of e820 and of hvm_memmap_table_entry alike.
enum class MemoryType : uint32_t { kRam = 1, kReserved = 2 };

struct MemoryMapEntry {
  uint64_t start = 0;
  uint64_t size_bytes = 0;
  MemoryType type = MemoryType::kRam;
};

// The guest's view of its memory, ascending, without overlap: RAM up to the EBDA; EBDA, ACPI tables and the VMGenID
// page reserved; RAM from 1 MiB to the hole; RAM from 4 GiB. At most 4 entries.
std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory);

}  // namespace granary::boot
