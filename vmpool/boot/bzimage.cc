// SPDX-License-Identifier: Apache-2.0
// bzImage, 64-bit boot protocol: Linux, Documentation/x86/boot.rst.
#include <asm/bootparam.h>

#include <algorithm>
#include <bit>
#include <cstddef>

#include "vmpool/base/fd.h"
#include "vmpool/boot/kernel_image.h"

namespace granary::boot {
namespace {

constexpr uint64_t kHeaderOffset = 0x1f1;  // of setup_header in the file and in boot_params
constexpr uint64_t kSectorBytes = 512;
constexpr uint16_t kBootFlag = 0xaa55;
constexpr uint32_t kMagic = 0x53726448;      // "HdrS"
constexpr uint16_t kOldestVersion = 0x020c;  // the first with xloadflags
constexpr uint64_t kEntryOffset = 0x200;     // of the 64-bit entry behind the start of the protected-mode part
constexpr uint64_t kJumpOffset = 0x202;      // the header ends here plus the byte at 0x201
constexpr uint8_t kDefaultSetupSectors = 4;
static_assert(offsetof(boot_params, hdr) == kHeaderOffset);

Error invalid(std::string what) {
  return {Errc::kKernelInvalid,
          "bzImage: " + std::move(what) + "; use an x86-64 Linux kernel (vmlinuz) that is not damaged"};
}

Status check_header(const setup_header& header) {
  if (header.boot_flag != kBootFlag || header.header != kMagic) {
    return Error(Errc::kKernelInvalid, "no ELF magic and no bzImage magic (boot_flag " + hex(header.boot_flag) +
                                           ", header " + hex(header.header) +
                                           "); wanted: a bzImage or an ELF vmlinux with a PVH entry");
  }
  if (header.version < kOldestVersion)
    return invalid("boot protocol version " + hex(header.version) + " is older than 2.12");
  if ((header.loadflags & LOADED_HIGH) == 0) return invalid("loadflags " + hex(header.loadflags) + " lack LOADED_HIGH");
  if ((header.xloadflags & XLF_KERNEL_64) == 0) {
    return invalid("xloadflags " + hex(header.xloadflags) + " lack XLF_KERNEL_64: not a 64-bit kernel");
  }
  if (!std::has_single_bit(header.kernel_alignment) || header.kernel_alignment < kPageSize) {
    return invalid("kernel_alignment " + hex(header.kernel_alignment) + " is not a power of two of at least a page");
  }
  if (header.pref_address % header.kernel_alignment != 0) {
    return invalid("pref_address " + hex(header.pref_address) + " is not aligned to " + hex(header.kernel_alignment));
  }
  return ok();
}

struct Part {
  uint64_t offset;  // in the file
  uint64_t size_bytes;
};

// The protected-mode part of the file; a signature may follow it.
Result<Part> protected_mode_part(const setup_header& header, uint64_t file_bytes) {
  const uint64_t sectors = header.setup_sects == 0 ? kDefaultSetupSectors : header.setup_sects;
  const uint64_t offset = (sectors + 1) * kSectorBytes;
  if (offset >= file_bytes) {
    return invalid("setup_sects " + std::to_string(header.setup_sects) + " point behind the end of the file (" +
                   std::to_string(file_bytes) + " bytes)");
  }
  const uint64_t available = file_bytes - offset;
  const uint64_t size_bytes = uint64_t{header.syssize} * 16;
  if (size_bytes <= kEntryOffset || size_bytes - 15 > available) {
    return invalid("syssize " + hex(header.syssize) + " (16-byte units) does not fit the " + std::to_string(available) +
                   " bytes behind the setup code");
  }
  const Part part{offset, std::min(size_bytes, available)};
  if (header.payload_length == 0 || header.payload_offset > part.size_bytes ||
      header.payload_length > part.size_bytes - header.payload_offset) {
    return invalid("payload of " + std::to_string(header.payload_length) + " bytes at " + hex(header.payload_offset) +
                   " is outside the kernel");
  }
  if (header.init_size < part.size_bytes) {
    return invalid("init_size " + hex(header.init_size) + " is smaller than the kernel (" + hex(part.size_bytes) + ")");
  }
  return part;
}

// What boot_params wants of the header: as many bytes as the kernel says it has, as far as this build knows them.
Result<std::vector<std::byte>> header_bytes(const setup_header& header) {
  const uint64_t end = kJumpOffset + (header.jump >> 8);
  constexpr uint64_t kNeededEnd = kHeaderOffset + offsetof(setup_header, init_size) + sizeof(header.init_size);
  if (end < kNeededEnd) return invalid("header ends at " + hex(end) + ", before init_size");
  const uint64_t size_bytes = std::min<uint64_t>(end - kHeaderOffset, sizeof(setup_header));
  const auto* first = reinterpret_cast<const std::byte*>(&header);
  return std::vector<std::byte>(first, first + size_bytes);
}

}  // namespace

Result<LoadedKernel> load_bzimage(const GuestMemory& memory, int fd, uint64_t size_bytes) {
  setup_header header{};
  if (size_bytes < kHeaderOffset + sizeof(header)) return invalid("only " + std::to_string(size_bytes) + " bytes long");
  GRANARY_TRY(pread_all(fd, std::as_writable_bytes(std::span(&header, 1)), kHeaderOffset));
  GRANARY_TRY(check_header(header));
  const Part part = GRANARY_TRY(protected_mode_part(header, size_bytes));

  // A relocatable kernel may lie elsewhere, but unpacks itself to its preferred address anyway if loaded below it.
  const Gpa start{header.pref_address};
  GRANARY_TRY(check_kernel_fits(memory, start.value, header.init_size));
  GRANARY_TRY(pread_all(fd, GRANARY_TRY(memory.range(start, part.size_bytes)), part.offset));

  LoadedKernel kernel;
  kernel.mode = EntryMode::kLong64;
  kernel.entry = start + kEntryOffset;
  kernel.end = start + header.init_size;
  kernel.initramfs_max = header.initrd_addr_max;
  kernel.command_line_max = header.cmdline_size;
  kernel.setup_header = GRANARY_TRY(header_bytes(header));
  return kernel;
}

}  // namespace granary::boot
