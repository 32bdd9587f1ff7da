// SPDX-License-Identifier: Apache-2.0
#include "vmpool/boot/kernel_image.h"

#include <array>
#include <cinttypes>
#include <cstdio>

#include "vmpool/base/fd.h"
#include "vmpool/boot/layout.h"

namespace granary::boot {
namespace {

constexpr uint64_t kSmallestKernel = 1024;
constexpr std::array<std::byte, 4> kElfMagic = {std::byte{0x7f}, std::byte{'E'}, std::byte{'L'}, std::byte{'F'}};

}  // namespace

std::string hex(uint64_t value) {
  std::array<char, 24> text{};
  std::snprintf(text.data(), text.size(), "0x%" PRIx64, value);
  return text.data();
}

Status check_kernel_fits(const GuestMemory& memory, uint64_t start, uint64_t size_bytes) {
  if (start < layout::kHighMemory.value) {
    return Error(Errc::kKernelInvalid,
                 "kernel wants address " + hex(start) + ", below 1 MiB; use a kernel linked at 1 MiB or above");
  }
  const uint64_t limit = memory.low_end().value;
  if (start <= limit && size_bytes <= limit - start) return ok();
  constexpr uint64_t kRoundUp = kMiB - 1;
  const uint64_t needed = start / kMiB + size_bytes / kMiB + ((start % kMiB + size_bytes % kMiB + kRoundUp) / kMiB);
  return Error(Errc::kKernelTooBig,
               "kernel needs memory up to " + std::to_string(needed) + " MiB, the guest has " +
                   std::to_string(limit / kMiB) +
                   " MiB below the hole at 3 GiB; give the shape more memory or use a smaller kernel");
}

Result<LoadedKernel> load_kernel(const GuestMemory& memory, int fd) {
  const uint64_t size_bytes = GRANARY_TRY(file_size(fd));
  if (size_bytes < kSmallestKernel) {
    return Error(Errc::kKernelInvalid, "kernel file of " + std::to_string(size_bytes) +
                                           " bytes; wanted: a bzImage or an ELF vmlinux with a PVH entry");
  }
  std::array<std::byte, 4> magic{};
  GRANARY_TRY(pread_all(fd, magic, 0));
  if (magic == kElfMagic) return load_elf(memory, fd, size_bytes);
  return load_bzimage(memory, fd, size_bytes);
}

}  // namespace granary::boot
