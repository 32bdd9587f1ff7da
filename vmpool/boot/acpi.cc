// SPDX-License-Identifier: Apache-2.0
#include "vmpool/boot/acpi.h"

#include <cstddef>
#include <cstring>
#include <string>

#include "vmpool/base/machine_layout.h"
#include "vmpool/boot/dsdt.h"
#include "vmpool/boot/layout.h"

namespace granary::boot {
namespace {

constexpr uint64_t kTableAlignment = 16;

#pragma pack(push, 1)
// ACPI 6.4, 5.2.6.
struct Header {
  char signature[4];
  uint32_t length;
  uint8_t revision;
  uint8_t checksum;
  char oem_id[6];
  char oem_table_id[8];
  uint32_t oem_revision;
  char creator_id[4];
  uint32_t creator_revision;
};
// 5.2.3.2.
struct GenericAddress {
  uint8_t space;
  uint8_t bit_width;
  uint8_t bit_offset;
  uint8_t access_size;
  uint64_t address;
};
// 5.2.5.3.
struct Rsdp {
  char signature[8];
  uint8_t checksum;
  char oem_id[6];
  uint8_t revision;
  uint32_t rsdt;
  uint32_t length;
  uint64_t xsdt;
  uint8_t extended_checksum;
  uint8_t reserved[3];
};
// 5.2.9; what hardware-reduced ACPI does not use is left zero.
struct Fadt {
  Header header;
  uint32_t firmware_control;
  uint32_t dsdt;
  uint8_t unused_44_108[65];  // reserved byte, profile, SCI, PM1, GPE … up to CENTURY
  uint16_t boot_architecture;
  uint8_t reserved_111;
  uint32_t flags;
  GenericAddress reset_register;
  uint8_t reset_value;
  uint16_t arm_boot_architecture;
  uint8_t minor_version;
  uint64_t x_firmware_control;
  uint64_t x_dsdt;
  GenericAddress unused_148_243[8];
  GenericAddress sleep_control;
  GenericAddress sleep_status;
  char hypervisor_vendor[8];
};
// 5.2.12.
struct Madt {
  Header header;
  uint32_t local_apic_address;
  uint32_t flags;
};
struct MadtLocalApic {
  uint8_t type;
  uint8_t length;
  uint8_t processor_uid;
  uint8_t apic_id;
  uint32_t flags;
};
struct MadtIoApic {
  uint8_t type;
  uint8_t length;
  uint8_t id;
  uint8_t reserved;
  uint32_t address;
  uint32_t gsi_base;
};
struct MadtLocalApicNmi {
  uint8_t type;
  uint8_t length;
  uint8_t processor_uid;
  uint16_t flags;
  uint8_t pin;
};
#pragma pack(pop)
static_assert(sizeof(Header) == 36 && sizeof(Rsdp) == 36 && sizeof(Fadt) == 276 && sizeof(Madt) == 44);
static_assert(offsetof(Fadt, boot_architecture) == 109 && offsetof(Fadt, flags) == 112 &&
              offsetof(Fadt, x_dsdt) == 140 && offsetof(Fadt, sleep_control) == 244);

constexpr uint8_t kSystemIo = 1;
constexpr uint8_t kByteAccess = 1;
constexpr uint16_t kVgaNotPresent = 1 << 2;
constexpr uint16_t kCmosRtcNotPresent = 1 << 5;
constexpr uint32_t kWbinvd = 1 << 0;
constexpr uint32_t kPowerButtonAbsent = 1 << 4;  // "not a fixed feature": there is none in the DSDT either
constexpr uint32_t kSleepButtonAbsent = 1 << 5;
constexpr uint32_t kResetRegisterSupported = 1 << 10;
constexpr uint32_t kHardwareReduced = 1 << 20;
constexpr uint32_t kLocalApicAddress = 0xfee0'0000;
constexpr uint32_t kIoApicAddress = 0xfec0'0000;

std::byte checksum(std::span<const std::byte> bytes) {
  uint8_t sum = 0;
  for (const std::byte b : bytes) sum = static_cast<uint8_t>(sum + std::to_integer<uint8_t>(b));
  return static_cast<std::byte>(0x100 - sum);
}

Header header(const char (&signature)[5], uint8_t revision) {
  Header h{};
  std::memcpy(h.signature, signature, sizeof(h.signature));
  h.revision = revision;
  std::memcpy(h.oem_id, "GRANRY", sizeof(h.oem_id));
  std::memcpy(h.oem_table_id, "GRANARY ", sizeof(h.oem_table_id));
  h.oem_revision = 1;
  std::memcpy(h.creator_id, "GRNY", sizeof(h.creator_id));
  h.creator_revision = 1;
  return h;
}

template <class T>
void append(std::vector<std::byte>& to, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

// Sets length and checksum of a table that starts with a Header.
std::vector<std::byte> finish(std::vector<std::byte> bytes) {
  const auto length = static_cast<uint32_t>(bytes.size());
  std::memcpy(bytes.data() + offsetof(Header, length), &length, sizeof(length));
  bytes[offsetof(Header, checksum)] = checksum(bytes);
  return bytes;
}

std::vector<std::byte> build_dsdt(const AcpiShape& shape) {
  std::vector<std::byte> bytes;
  append(bytes, header("DSDT", 2));
  for (const char c : dsdt_body(shape)) append(bytes, c);
  return finish(std::move(bytes));
}

GenericAddress byte_port(uint16_t port) { return {kSystemIo, 8, 0, kByteAccess, port}; }

std::vector<std::byte> build_fadt(Gpa dsdt) {
  Fadt fadt{};
  fadt.header = header("FACP", 6);
  fadt.minor_version = 4;
  fadt.dsdt = static_cast<uint32_t>(dsdt.value);
  fadt.x_dsdt = dsdt.value;
  fadt.boot_architecture = kVgaNotPresent | kCmosRtcNotPresent;
  fadt.flags = kWbinvd | kPowerButtonAbsent | kSleepButtonAbsent | kResetRegisterSupported | kHardwareReduced;
  fadt.reset_register = byte_port(machine::kResetPort);
  fadt.reset_value = machine::kResetValue;
  fadt.sleep_control = byte_port(machine::kSleepControlPort);
  fadt.sleep_status = byte_port(machine::kSleepStatusPort);
  std::memcpy(fadt.hypervisor_vendor, "GRANARY", sizeof("GRANARY"));
  std::vector<std::byte> bytes;
  append(bytes, fadt);
  return finish(std::move(bytes));
}

std::vector<std::byte> build_madt(uint32_t vcpus) {
  constexpr uint32_t kEnabled = 1;
  constexpr uint8_t kAllProcessors = 0xff;
  std::vector<std::byte> bytes;
  append(bytes, Madt{header("APIC", 5), kLocalApicAddress, 0});
  for (uint32_t id = 0; id < vcpus; ++id) {
    append(bytes,
           MadtLocalApic{0, sizeof(MadtLocalApic), static_cast<uint8_t>(id), static_cast<uint8_t>(id), kEnabled});
  }
  append(bytes, MadtIoApic{1, sizeof(MadtIoApic), 0, 0, kIoApicAddress, 0});
  append(bytes, MadtLocalApicNmi{4, sizeof(MadtLocalApicNmi), kAllProcessors, 0, 1});
  return finish(std::move(bytes));
}

std::vector<std::byte> build_xsdt(std::span<const Gpa> tables) {
  std::vector<std::byte> bytes;
  append(bytes, header("XSDT", 1));
  for (const Gpa table : tables) append(bytes, table.value);
  return finish(std::move(bytes));
}

std::vector<std::byte> build_rsdp(Gpa xsdt) {
  Rsdp rsdp{};
  std::memcpy(rsdp.signature, "RSD PTR ", sizeof(rsdp.signature));
  std::memcpy(rsdp.oem_id, "GRANRY", sizeof(rsdp.oem_id));
  rsdp.revision = 2;
  rsdp.length = sizeof(rsdp);
  rsdp.xsdt = xsdt.value;
  const auto bytes = std::as_bytes(std::span(&rsdp, 1));
  constexpr size_t kVersion1Bytes = 20;
  rsdp.checksum = std::to_integer<uint8_t>(checksum(bytes.first(kVersion1Bytes)));
  rsdp.extended_checksum = std::to_integer<uint8_t>(checksum(bytes));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

Result<std::vector<AcpiTable>> build_acpi_tables(const AcpiShape& shape) {
  if (shape.vcpus < 1 || shape.vcpus > machine::kMaxVcpus) {
    return Error(Errc::kVcpusOutOfRange, std::to_string(shape.vcpus) + " vCPUs; allowed: 1 to 8");
  }
  if (shape.virtio_slots > machine::kMaxVirtioSlots) {
    return Error(Errc::kInvalidArgument, std::to_string(shape.virtio_slots) + " virtio slots; allowed: 0 to 19");
  }
  std::vector<AcpiTable> tables = {{{'R', 'S', 'D', ' '}, layout::kAcpi, {}}};
  Gpa next = layout::kAcpi + 64;
  const auto place = [&](std::array<char, 4> signature, std::vector<std::byte> bytes) {
    const Gpa at = next;
    next = at + (bytes.size() + kTableAlignment - 1) / kTableAlignment * kTableAlignment;
    tables.push_back({signature, at, std::move(bytes)});
    return at;
  };
  const Gpa dsdt = place({'D', 'S', 'D', 'T'}, build_dsdt(shape));
  const std::array<Gpa, 2> listed = {place({'F', 'A', 'C', 'P'}, build_fadt(dsdt)),
                                     place({'A', 'P', 'I', 'C'}, build_madt(shape.vcpus))};
  tables[0].bytes = build_rsdp(place({'X', 'S', 'D', 'T'}, build_xsdt(listed)));
  return tables;
}

Result<Gpa> write_acpi_tables(const GuestMemory& memory, const AcpiShape& shape) {
  const std::vector<AcpiTable> tables = GRANARY_TRY(build_acpi_tables(shape));
  for (const AcpiTable& table : tables) GRANARY_TRY(memory.write_bytes(table.address, table.bytes));
  return tables.front().address;
}

}  // namespace granary::boot
