// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "vmpool/base/result.h"

namespace granary::bench {

// Memory of a VMM process, told apart into its guest's memory and its own.
struct VmmMemory {
  uint64_t guest_private_bytes = 0;  // guest pages that are this clone's alone: copied from the template, or new
  uint64_t guest_pss_bytes = 0;
  uint64_t vmm_pss_bytes = 0;  // everything else
};

// From the text of /proc/PID/smaps (proc(5)). A clone's own pages are its anonymous ones; Private_Dirty would count
// pages of the template's memfd, too, as long as no other clone has them mapped. Guest memory is one range of
// `memory_bytes`, found through the private mappings of the template's memory file in it: a mapping's file offset is
// its offset in guest memory. ENOENT when there is none: not a restored clone.
Result<VmmMemory> parse_smaps(std::string_view smaps, uint64_t memory_bytes);
Result<VmmMemory> read_vmm_memory(int32_t pid, uint64_t memory_bytes);

}  // namespace granary::bench
