// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "vmpool/base/guest_memory.h"
#include "vmpool/boot/boot_plan.h"
#include "vmpool/boot/kernel_image.h"

namespace granary::boot {

// A file in guest memory; size 0 = none.
struct Module {
  Gpa start;
  uint64_t size_bytes = 0;
};

struct StartInfo {
  Module initramfs;
  uint64_t command_line_bytes = 0;  // at layout::kCommandLine, NUL-terminated
  Gpa rsdp;
};

// Write what the boot protocol wants the kernel to find, and say how it starts.
Result<BootPlan> plan_bzimage(const GuestMemory& memory, const LoadedKernel& kernel, const StartInfo& info);
Result<BootPlan> plan_pvh(const GuestMemory& memory, const LoadedKernel& kernel, const StartInfo& info);

}  // namespace granary::boot
