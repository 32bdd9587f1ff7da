// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "vmpool/base/guest_memory.h"
#include "vmpool/boot/boot_plan.h"

namespace granary::boot {

// The longest command line, without its NUL (the buffer of x86 Linux is COMMAND_LINE_SIZE = 2048 bytes).
inline constexpr size_t kMaxCommandLine = 2047;

struct BootRequest {
  int kernel_fd = -1;     // bzImage or ELF vmlinux; a regular file or memfd, read with pread(2)
  int initramfs_fd = -1;  // -1: none
  std::string_view command_line;
  uint32_t vcpus = 1;         // for the ACPI tables
  uint32_t virtio_slots = 0;  // for the ACPI tables
};

// Puts kernel, initramfs, command line, memory map, ACPI tables and the boot structures into zeroed guest memory and
// says how the boot vCPU starts. Files are hostile input: every value is checked before use. Errors name value and
// remedy: kKernelInvalid, kKernelTooBig, kInitramfsInvalid (empty, or no room), kCommandLineTooLong (also for a NUL
// inside), kVcpusOutOfRange, kInvalidArgument (virtio slots), or the errno of a failed read. Guest memory is
// unspecified after an error.
Result<BootPlan> load_guest(const GuestMemory& memory, const BootRequest& request);

}  // namespace granary::boot
