// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "vmpool/base/fd.h"
#include "vmpool/base/units.h"

namespace granary::vmm {

// Guests of a few machine instructions, for tests: 32-bit protected mode, flat segments, paging and interrupts off, as
// the PVH entry leaves them.
class TinyCode {
 public:
  TinyCode& bytes(std::initializer_list<uint8_t> code);
  // Writes `value` to an I/O port. Changes AL and DX.
  TinyCode& out(uint16_t port, uint8_t value);
  // Writes each character to the serial port, with one string instruction.
  TinyCode& print(std::string_view text);
  // Rings the doorbell with `value`.
  TinyCode& ring(uint8_t value);
  // Adds one to the byte at kCounter and rings the doorbell with it.
  TinyCode& count_and_ring();
  // Rings the doorbell with the byte at `address`.
  TinyCode& ring_byte_at(Gpa address);
  // Spins until the VM generation id is not zero: in a template for ever, in a clone not at all.
  TinyCode& wait_for_generation();
  // Starts all other vCPUs: each rings the doorbell with `first`, spins until release_other_vcpus(), rings it with
  // `then` and halts.
  TinyCode& start_other_vcpus(uint8_t first, uint8_t then);
  TinyCode& release_other_vcpus();
  // Writes to each page of [from, to).
  TinyCode& dirty(Gpa from, Gpa to);
  // Halts for ever.
  TinyCode& halt();

  [[nodiscard]] const std::vector<uint8_t>& code() const { return code_; }

  static constexpr Gpa kEntry{1 * kMiB};
  static constexpr Gpa kCounter{2 * kMiB};
  static constexpr Gpa kOthersEntry{0x5'0000};  // a page below 1 MiB that nobody uses
  static constexpr Gpa kOthersFlag{0x5'0ff0};

 private:
  TinyCode& word(uint64_t value);
  std::vector<uint8_t> code_;
};

// A memfd with an ELF file that holds the code at kEntry and a PVH note that names it.
Result<Fd> make_tiny_elf(const TinyCode& code);

}  // namespace granary::vmm
