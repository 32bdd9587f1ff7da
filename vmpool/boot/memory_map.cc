// SPDX-License-Identifier: Apache-2.0
#include "vmpool/boot/memory_map.h"

#include "vmpool/boot/layout.h"

namespace granary::boot {

std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory) {
  const uint64_t ebda = layout::kEbda.value;
  const uint64_t high = layout::kHighMemory.value;
  std::vector<MemoryMapEntry> map = {{0, ebda, MemoryType::kRam}, {ebda, high - ebda, MemoryType::kReserved}};
  const uint64_t low_end = memory.low_end().value;
  if (low_end > high) map.push_back({high, low_end - high, MemoryType::kRam});
  for (const GuestMemory::Region& region : memory.regions().subspan(1)) {
    map.push_back({region.start.value, region.size_bytes, MemoryType::kRam});
  }
  return map;
}

}  // namespace granary::boot
