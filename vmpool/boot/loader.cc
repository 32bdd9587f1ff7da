// SPDX-License-Identifier: Apache-2.0
#include "vmpool/boot/loader.h"

#include <algorithm>
#include <string>

#include "vmpool/base/fd.h"
#include "vmpool/boot/acpi.h"
#include "vmpool/boot/boot_structures.h"
#include "vmpool/boot/kernel_image.h"
#include "vmpool/boot/layout.h"

namespace granary::boot {
namespace {

Status check_command_line(std::string_view text, uint64_t kernel_max) {
  const uint64_t limit = std::min<uint64_t>(kernel_max, kMaxCommandLine);
  if (text.size() > limit) {
    return Error(Errc::kCommandLineTooLong, "kernel command line of " + std::to_string(text.size()) +
                                                " bytes; this kernel takes " + std::to_string(limit) + "; shorten it");
  }
  if (const size_t at = text.find('\0'); at != std::string_view::npos) {
    return Error(Errc::kInvalidArgument, "kernel command line has a NUL at byte " + std::to_string(at) + "; remove it");
  }
  return ok();
}

// As high as possible, so that the kernel can grow below it. The kernel must find it in its first mapping, below the
// hole.
Result<Module> load_initramfs(const GuestMemory& memory, int fd, const LoadedKernel& kernel) {
  if (fd < 0) return Module{};
  const uint64_t size_bytes = GRANARY_TRY(file_size(fd));
  if (size_bytes == 0) return Error(Errc::kInitramfsInvalid, "initramfs is an empty file; give a cpio archive");
  const uint64_t limit = std::min(memory.low_end().value, kernel.initramfs_max + 1);
  if (size_bytes <= limit) {
    const uint64_t start = (limit - size_bytes) / kPageSize * kPageSize;
    if (start >= kernel.end.value) {
      GRANARY_TRY(pread_all(fd, GRANARY_TRY(memory.range(Gpa{start}, size_bytes)), 0));
      return Module{Gpa{start}, size_bytes};
    }
  }
  return Error(Errc::kInitramfsInvalid, "initramfs of " + std::to_string(size_bytes) +
                                            " bytes does not fit between the kernel's end " + hex(kernel.end.value) +
                                            " and " + hex(limit) +
                                            "; give the shape more memory or use a smaller initramfs");
}

}  // namespace

Result<BootPlan> load_guest(const GuestMemory& memory, const BootRequest& request) {
  const LoadedKernel kernel = GRANARY_TRY(load_kernel(memory, request.kernel_fd));
  GRANARY_TRY(check_command_line(request.command_line, kernel.command_line_max));
  const Module initramfs = GRANARY_TRY(load_initramfs(memory, request.initramfs_fd, kernel));
  const Gpa rsdp = GRANARY_TRY(write_acpi_tables(memory, {request.vcpus, request.virtio_slots}));
  GRANARY_TRY(memory.write_bytes(layout::kCommandLine, std::as_bytes(std::span(request.command_line))));
  GRANARY_TRY(memory.write<uint8_t>(layout::kCommandLine + request.command_line.size(), 0));
  const StartInfo info{initramfs, request.command_line.size(), rsdp};
  if (kernel.mode == EntryMode::kProtected32) return plan_pvh(memory, kernel, info);
  return plan_bzimage(memory, kernel, info);
}

}  // namespace granary::boot
