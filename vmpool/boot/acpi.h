// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "vmpool/base/guest_memory.h"
#include "vmpool/base/units.h"

namespace granary::boot {

struct AcpiShape {
  uint32_t vcpus = 1;         // 1 to machine::kMaxVcpus
  uint32_t virtio_slots = 0;  // 0 to machine::kMaxVirtioSlots
};

struct AcpiTable {
  std::array<char, 4> signature;
  Gpa address;
  std::vector<std::byte> bytes;
};

// RSDP, XSDT, FADT (hardware-reduced), MADT and DSDT for Granary's machine (ACPI 6.4), each at a 16-byte aligned
// address in [0xe0000, 0xef000); the RSDP is first. kVcpusOutOfRange or kInvalidArgument.
Result<std::vector<AcpiTable>> build_acpi_tables(const AcpiShape& shape);

// Builds the tables and writes them to guest memory; returns the RSDP's address.
Result<Gpa> write_acpi_tables(const GuestMemory& memory, const AcpiShape& shape);

}  // namespace granary::boot
