// SPDX-License-Identifier: Apache-2.0
// ELF vmlinux with a PVH entry: Xen, docs/misc/pvh.pandoc; the note is XEN_ELFNOTE_PHYS32_ENTRY of
// xen/include/public/elfnote.h.
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "vmpool/base/fd.h"
#include "vmpool/boot/kernel_image.h"

namespace granary::boot {
namespace {

constexpr uint32_t kXenNotePhys32Entry = 18;
constexpr std::string_view kXenNoteName{"Xen\0", 4};
constexpr uint16_t kMaxProgramHeaders = 64;
constexpr uint64_t kMaxNoteBytes = 64 * kKiB;
constexpr uint64_t kPvhCommandLineMax = 2047;

Error invalid(std::string what) {
  return {Errc::kKernelInvalid, "ELF kernel: " + std::move(what) +
                                    "; use an x86-64 vmlinux built with CONFIG_PVH that is not damaged, or a bzImage"};
}

Status check_header(const Elf64_Ehdr& header) {
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64) {
    return invalid("not a little-endian 64-bit file for x86-64 (machine " + std::to_string(header.e_machine) + ")");
  }
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    return invalid("type " + std::to_string(header.e_type) + " is not an executable");
  }
  if (header.e_phnum == 0 || header.e_phnum > kMaxProgramHeaders || header.e_phentsize != sizeof(Elf64_Phdr)) {
    return invalid(std::to_string(header.e_phnum) + " program headers of " + std::to_string(header.e_phentsize) +
                   " bytes; allowed: 1 to 64 of 56");
  }
  return ok();
}

bool inside(uint64_t offset, uint64_t size_bytes, uint64_t limit) {
  return offset <= limit && size_bytes <= limit - offset;
}

Result<std::vector<Elf64_Phdr>> read_program_headers(int fd, uint64_t file_bytes) {
  Elf64_Ehdr header{};
  GRANARY_TRY(pread_all(fd, std::as_writable_bytes(std::span(&header, 1)), 0));
  GRANARY_TRY(check_header(header));
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (!inside(header.e_phoff, segments.size() * sizeof(Elf64_Phdr), file_bytes)) {
    return invalid("program headers at " + hex(header.e_phoff) + " are outside the file");
  }
  GRANARY_TRY(pread_all(fd, std::as_writable_bytes(std::span(segments)), header.e_phoff));
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_LOAD && segment.p_type != PT_NOTE) continue;
    if (!inside(segment.p_offset, segment.p_filesz, file_bytes)) {
      return invalid("segment of " + std::to_string(segment.p_filesz) + " bytes at file offset " +
                     hex(segment.p_offset) + " is outside the file");
    }
  }
  return segments;
}

// The entry point in one note segment's bytes, if it is there.
std::optional<uint64_t> find_entry(std::span<const std::byte> notes) {
  const auto align = [](uint64_t n) { return (n + 3) & ~uint64_t{3}; };
  for (uint64_t at = 0; inside(at, sizeof(Elf64_Nhdr), notes.size());) {
    Elf64_Nhdr note{};
    std::memcpy(&note, notes.data() + at, sizeof(note));
    const uint64_t name = at + sizeof(note);
    const uint64_t value = name + align(note.n_namesz);
    if (!inside(value, note.n_descsz, notes.size())) return std::nullopt;
    const std::string_view found(reinterpret_cast<const char*>(notes.data() + name), note.n_namesz);
    if (note.n_type == kXenNotePhys32Entry && found == kXenNoteName && (note.n_descsz == 4 || note.n_descsz == 8)) {
      uint64_t entry = 0;
      std::memcpy(&entry, notes.data() + value, note.n_descsz);
      return entry;
    }
    at = value + align(note.n_descsz);
  }
  return std::nullopt;
}

Result<uint64_t> read_entry(int fd, const std::vector<Elf64_Phdr>& segments) {
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_NOTE) continue;
    std::vector<std::byte> notes(std::min<uint64_t>(segment.p_filesz, kMaxNoteBytes));
    GRANARY_TRY(pread_all(fd, notes, segment.p_offset));
    if (const auto entry = find_entry(notes)) return *entry;
  }
  return invalid("no PVH entry (Xen note 18)");
}

// Loads the segments; returns one past the highest byte they need.
Result<uint64_t> load_segments(const GuestMemory& memory, int fd, const std::vector<Elf64_Phdr>& segments) {
  uint64_t end = 0;
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_LOAD || segment.p_memsz == 0) continue;
    if (segment.p_filesz > segment.p_memsz) {
      return invalid("segment at " + hex(segment.p_paddr) + " has more bytes in the file than in memory");
    }
    GRANARY_TRY(check_kernel_fits(memory, segment.p_paddr, segment.p_memsz));
    GRANARY_TRY(pread_all(fd, GRANARY_TRY(memory.range(Gpa{segment.p_paddr}, segment.p_filesz)), segment.p_offset));
    end = std::max(end, segment.p_paddr + segment.p_memsz);
  }
  if (end == 0) return invalid("nothing to load");
  return end;
}

}  // namespace

Result<LoadedKernel> load_elf(const GuestMemory& memory, int fd, uint64_t size_bytes) {
  const std::vector<Elf64_Phdr> segments = GRANARY_TRY(read_program_headers(fd, size_bytes));
  const uint64_t entry = GRANARY_TRY(read_entry(fd, segments));
  const bool loaded = std::any_of(segments.begin(), segments.end(), [&](const Elf64_Phdr& segment) {
    return segment.p_type == PT_LOAD && entry >= segment.p_paddr && entry - segment.p_paddr < segment.p_filesz;
  });
  if (!loaded) return invalid("PVH entry " + hex(entry) + " lies in no loaded segment");

  LoadedKernel kernel;
  kernel.mode = EntryMode::kProtected32;
  kernel.entry = Gpa{entry};
  kernel.end = Gpa{GRANARY_TRY(load_segments(memory, fd, segments))};
  kernel.initramfs_max = kMemoryHoleStart - 1;
  kernel.command_line_max = kPvhCommandLineMax;
  return kernel;
}

}  // namespace granary::boot
