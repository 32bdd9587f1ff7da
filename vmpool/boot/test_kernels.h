// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <asm/bootparam.h>
#include <elf.h>

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "vmpool/base/fd.h"

// Small synthetic kernels for this room's tests: valid unless a test changes a field.
namespace granary::boot::testing {

struct BzImage {
  setup_header header{};
  uint32_t header_end = 0x202 + 0x6a;
  size_t protected_bytes = 4096;
  size_t cut_to = SIZE_MAX;

  BzImage() {
    header.setup_sects = 1;
    header.boot_flag = 0xaa55;
    header.header = 0x53726448;
    header.version = 0x020f;
    header.loadflags = LOADED_HIGH;
    header.initrd_addr_max = 0x7fff'ffff;
    header.kernel_alignment = 0x20'0000;
    header.relocatable_kernel = 1;
    header.xloadflags = XLF_KERNEL_64;
    header.cmdline_size = 2047;
    header.payload_offset = 0x400;
    header.payload_length = 1024;
    header.pref_address = 0x100'0000;
    header.init_size = 0x10'0000;
    header.syssize = 4096 / 16;
  }
  [[nodiscard]] std::string bytes() const {
    std::string file((header.setup_sects + 1) * 512 + protected_bytes, '\xcc');
    setup_header copy = header;
    copy.jump = static_cast<uint16_t>(0xeb | (header_end - 0x202) << 8);
    std::memcpy(file.data() + 0x1f1, &copy, sizeof(copy));
    return file.substr(0, std::min(cut_to, file.size()));
  }
};

struct PvhElf {
  Elf64_Ehdr header{};
  Elf64_Phdr load{};
  Elf64_Phdr notes{};
  uint32_t entry = 0x100'0040;
  uint32_t note_type = 18;
  size_t cut_to = SIZE_MAX;

  PvhElf() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_phoff = sizeof(Elf64_Ehdr);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 2;
    load.p_type = PT_LOAD;
    load.p_offset = 1024;
    load.p_paddr = 0x100'0000;
    load.p_filesz = 1024;
    load.p_memsz = 8192;
    notes.p_type = PT_NOTE;
    notes.p_offset = 512;
    notes.p_filesz = 20;
  }
  [[nodiscard]] std::string bytes() const {
    std::string file(2048, '\xdd');
    std::memcpy(file.data(), &header, sizeof(header));
    std::memcpy(file.data() + sizeof(header), &load, sizeof(load));
    std::memcpy(file.data() + sizeof(header) + sizeof(load), &notes, sizeof(notes));
    const Elf64_Nhdr note{4, 4, note_type};
    std::memcpy(file.data() + 512, &note, sizeof(note));
    std::memcpy(file.data() + 524, "Xen", 4);
    std::memcpy(file.data() + 528, &entry, sizeof(entry));
    return file.substr(0, std::min(cut_to, file.size()));
  }
};

// A memfd with this content; an invalid Fd on failure.
inline Fd file_of(std::string_view content) {
  Result<Fd> fd = create_memfd("test-kernel", content.size());
  if (!fd || !pwrite_all(fd->get(), std::as_bytes(std::span(content)), 0)) return Fd();
  return *std::move(fd);
}

}  // namespace granary::boot::testing
