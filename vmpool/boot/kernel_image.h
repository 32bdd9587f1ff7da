// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vmpool/base/guest_memory.h"
#include "vmpool/boot/boot_plan.h"

namespace granary::boot {

// A kernel that lies in guest memory, and what the rest of the set-up must know about it.
struct LoadedKernel {
  EntryMode mode = EntryMode::kLong64;
  Gpa entry;
  Gpa end;                               // one past the memory the kernel needs before it has read its memory map
  uint64_t initramfs_max = 0xffff'ffff;  // highest address the initramfs may occupy
  uint64_t command_line_max = 0;         // bytes without NUL
  std::vector<std::byte> setup_header;   // bzImage only: the bytes from file offset 0x1f1 on, for boot_params
};

// Reads enough of the file to know its format (by magic), validates it and loads it. kKernelInvalid, kKernelTooBig.
Result<LoadedKernel> load_kernel(const GuestMemory& memory, int fd);

// The two formats. `size_bytes` is the file's size.
Result<LoadedKernel> load_bzimage(const GuestMemory& memory, int fd, uint64_t size_bytes);
Result<LoadedKernel> load_elf(const GuestMemory& memory, int fd, uint64_t size_bytes);

// "0x1000000"
std::string hex(uint64_t value);
// The range [start, start + size) lies between 1 MiB and the end of low memory, else kKernelTooBig.
Status check_kernel_fits(const GuestMemory& memory, uint64_t start, uint64_t size_bytes);

}  // namespace granary::boot
