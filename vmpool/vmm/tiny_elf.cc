// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/tiny_elf.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "vmpool/base/machine_layout.h"

namespace granary::vmm {

TinyCode& TinyCode::bytes(std::initializer_list<uint8_t> code) {
  code_.insert(code_.end(), code);
  return *this;
}

TinyCode& TinyCode::word(uint64_t value) {
  for (int shift = 0; shift < 32; shift += 8) code_.push_back(static_cast<uint8_t>(value >> shift));
  return *this;
}

TinyCode& TinyCode::out(uint16_t port, uint8_t value) {
  return bytes({0x66, 0xba, static_cast<uint8_t>(port), static_cast<uint8_t>(port >> 8)})  // mov $port, %dx
      .bytes({0xb0, value, 0xee});  // mov $value, %al; out %al, (%dx)
}

TinyCode& TinyCode::print(std::string_view text) {
  bytes({0xeb, static_cast<uint8_t>(text.size())});  // jmp over the text, which is shorter than 128 bytes
  const uint64_t at = kEntry.value + code_.size();
  code_.insert(code_.end(), text.begin(), text.end());
  bytes({0xbe}).word(at);                                                                          // mov $text, %esi
  bytes({0xb9}).word(text.size());                                                                 // mov $size, %ecx
  return bytes({0x66, 0xba, machine::kSerialPort & 0xff, machine::kSerialPort >> 8, 0xf3, 0x6e});  // rep outsb
}

TinyCode& TinyCode::ring(uint8_t value) { return out(machine::kDoorbellPort, value); }

TinyCode& TinyCode::count_and_ring() {
  bytes({0xfe, 0x05}).word(kCounter.value);  // incb kCounter
  return ring_byte_at(kCounter);
}

TinyCode& TinyCode::ring_byte_at(Gpa address) {
  bytes({0xa0}).word(address.value);  // mov address, %al
  return bytes({0x66, 0xba, machine::kDoorbellPort & 0xff, machine::kDoorbellPort >> 8, 0xee});
}

TinyCode& TinyCode::wait_for_generation() {
  bytes({0x83, 0x3d}).word(machine::kVmGenIdAddress.value);  // cmpl $0, address
  return bytes({0x00, 0x74, 0xf7});                          // je back to the comparison
}

// Intel SDM volume 3, 9.4.4.1: INIT, then SIPI with the page's number, to all but self (interrupt command register
// 0x300).
TinyCode& TinyCode::start_other_vcpus(uint8_t first, uint8_t then) {
  constexpr uint64_t kInterruptCommand = 0xfee0'0300;
  const std::initializer_list<uint8_t> real_mode = {0xba,
                                                    machine::kDoorbellPort & 0xff,
                                                    machine::kDoorbellPort >> 8,  // mov $port, %dx
                                                    0xb0,
                                                    first,
                                                    0xee,  // mov $first, %al; out %al, (%dx)
                                                    0x2e,
                                                    0x80,
                                                    0x3e,
                                                    kOthersFlag.value & 0xff,
                                                    kOthersFlag.value >> 8 & 0xf,  // 1: cmpb $0, %cs:flag
                                                    0x00,
                                                    0x74,
                                                    0xf8,  // je 1b
                                                    0xb0,
                                                    then,
                                                    0xee,  // mov $then, %al; out %al, (%dx)
                                                    0xfa,
                                                    0xf4,
                                                    0xeb,
                                                    0xfc};  // cli; hlt; jmp to the cli
  bytes({0xeb, static_cast<uint8_t>(real_mode.size())});
  const uint64_t at = kEntry.value + code_.size();
  bytes(real_mode);
  bytes({0xbe}).word(at);                                      // mov $at, %esi
  bytes({0xbf}).word(kOthersEntry.value);                      // mov $kOthersEntry, %edi
  bytes({0xb9}).word(real_mode.size()).bytes({0xf3, 0xa4});    // mov $size, %ecx; rep movsb
  bytes({0xc7, 0x05}).word(kInterruptCommand).word(0xc'4500);  // movl $INIT, register
  return bytes({0xc7, 0x05}).word(kInterruptCommand).word(0xc'4600 | kOthersEntry.value / kPageSize);
}

TinyCode& TinyCode::release_other_vcpus() {
  return bytes({0xfe, 0x05}).word(kOthersFlag.value);  // incb flag
}

TinyCode& TinyCode::dirty(Gpa from, Gpa to) {
  bytes({0xb9}).word(from.value);                   // mov $from, %ecx
  bytes({0x89, 0x09, 0x81, 0xc1}).word(kPageSize);  // 1: mov %ecx, (%ecx); add $4096, %ecx
  bytes({0x81, 0xf9}).word(to.value);               // cmp $to, %ecx
  return bytes({0x72, 0xf0});                       // jb 1b
}

TinyCode& TinyCode::halt() { return bytes({0xfa, 0xf4, 0xeb, 0xfc}); }  // cli; hlt; jmp to the cli

Result<Fd> make_tiny_elf(const TinyCode& code) {
  struct Note {
    Elf64_Nhdr header;
    char name[4];
    uint64_t entry;
  };
  struct Head {
    Elf64_Ehdr elf;
    Elf64_Phdr load;
    Elf64_Phdr note_segment;
    Note note;
  } head{};
  std::memcpy(head.elf.e_ident, ELFMAG, SELFMAG);
  head.elf.e_ident[EI_CLASS] = ELFCLASS64;
  head.elf.e_ident[EI_DATA] = ELFDATA2LSB;
  head.elf.e_ident[EI_VERSION] = EV_CURRENT;
  head.elf.e_type = ET_EXEC;
  head.elf.e_machine = EM_X86_64;
  head.elf.e_version = EV_CURRENT;
  head.elf.e_phoff = offsetof(Head, load);
  head.elf.e_ehsize = sizeof(Elf64_Ehdr);
  head.elf.e_phentsize = sizeof(Elf64_Phdr);
  head.elf.e_phnum = 2;
  head.load.p_type = PT_LOAD;
  head.load.p_offset = sizeof(Head);
  head.load.p_paddr = TinyCode::kEntry.value;
  head.load.p_filesz = head.load.p_memsz = code.code().size();
  head.note_segment.p_type = PT_NOTE;
  head.note_segment.p_offset = offsetof(Head, note);
  head.note_segment.p_filesz = sizeof(Note);
  head.note.header = {4, sizeof(uint64_t), 18};  // XEN_ELFNOTE_PHYS32_ENTRY
  std::memcpy(head.note.name, "Xen", 4);
  head.note.entry = TinyCode::kEntry.value;

  // A whole page: the loader takes nothing smaller for a kernel.
  Fd fd = GRANARY_TRY(create_memfd("tiny-guest", kPageSize));
  GRANARY_TRY(pwrite_all(fd.get(), std::as_bytes(std::span(&head, 1)), 0));
  GRANARY_TRY(pwrite_all(fd.get(), std::as_bytes(std::span(code.code())), sizeof(head)));
  return fd;
}

}  // namespace granary::vmm
