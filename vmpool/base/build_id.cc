// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/build_id.h"

#include <elf.h>
#include <fcntl.h>

#include <cstring>
#include <optional>
#include <vector>

#include "vmpool/base/fd.h"

namespace granary {
namespace {

constexpr size_t kMaxNotesBytes = 64 * 1024;
constexpr size_t kMaxIdBytes = 31;  // so that its digits fit where they are used; linkers make 16 or 20

template <class T>
Result<T> read_at(int fd, uint64_t offset) {
  T value;
  GRANARY_TRY(pread_all(fd, std::as_writable_bytes(std::span(&value, 1)), offset));
  return value;
}

size_t padded(size_t bytes) { return (bytes + 3) & ~size_t{3}; }

std::string hex(std::span<const std::byte> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte b : bytes) {
    text += kDigits[std::to_integer<int>(b) >> 4];
    text += kDigits[std::to_integer<int>(b) & 15];
  }
  return text;
}

// Notes lie one after the other: header, name and description, the latter two padded to four bytes.
std::optional<std::string> build_id_in(std::span<const std::byte> notes) {
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr note;
    std::memcpy(&note, notes.data(), sizeof(note));
    notes = notes.subspan(sizeof(note));
    if (note.n_namesz > notes.size() || note.n_descsz > notes.size()) break;
    const size_t name = padded(note.n_namesz);
    if (name + padded(note.n_descsz) > notes.size()) break;
    const bool is_gnu = note.n_namesz == sizeof(ELF_NOTE_GNU) && std::memcmp(notes.data(), ELF_NOTE_GNU, sizeof(ELF_NOTE_GNU)) == 0;
    if (is_gnu && note.n_type == NT_GNU_BUILD_ID && note.n_descsz > 0 && note.n_descsz <= kMaxIdBytes) {
      return hex(notes.subspan(name, note.n_descsz));
    }
    notes = notes.subspan(name + padded(note.n_descsz));
  }
  return std::nullopt;
}

}  // namespace

Result<std::string> read_build_id(const std::string& path) {
  const Fd file = GRANARY_TRY(open_file(path, O_RDONLY));
  const Error none = Error::from_errno(ENOEXEC, "build id of " + path + ": it has none; link it with -Wl,--build-id");
  const auto header = read_at<Elf64_Ehdr>(file.get(), 0);
  if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_ident[EI_CLASS] != ELFCLASS64) return none;
  for (size_t i = 0; i < header->e_phnum; ++i) {
    const auto segment = read_at<Elf64_Phdr>(file.get(), header->e_phoff + i * sizeof(Elf64_Phdr));
    if (!segment) return none;
    if (segment->p_type != PT_NOTE || segment->p_filesz > kMaxNotesBytes) continue;
    std::vector<std::byte> notes(segment->p_filesz);
    if (!pread_all(file.get(), notes, segment->p_offset)) return none;
    if (auto id = build_id_in(notes)) return *std::move(id);
  }
  return none;
}

}  // namespace granary
