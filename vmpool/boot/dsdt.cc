// SPDX-License-Identifier: Apache-2.0
#include "vmpool/boot/dsdt.h"

#include "vmpool/base/machine_layout.h"
#include "vmpool/boot/aml.h"

namespace granary::boot {
namespace {

using namespace machine;
using aml::Bytes;

constexpr uint64_t kPresentEnabledShownWorking = 0xf;
constexpr uint64_t kNotifyGenerationChanged = 0x80;  // Microsoft's VMGenID specification

std::string numbered(char letter, uint32_t n) {
  std::string digits = std::to_string(n);
  digits.insert(0, 3 - digits.size(), '0');
  return letter + digits;
}

Bytes processor(uint32_t id) {
  return aml::device(numbered('C', id),
                     aml::name("_HID", aml::string("ACPI0007")) + aml::name("_UID", aml::integer(id)));
}

Bytes serial_port() {
  return aml::device(
      "COM1", aml::name("_HID", aml::eisa_id("PNP0501")) + aml::name("_UID", aml::integer(1)) +
                  aml::name("_CRS", aml::resources(aml::io_port(kSerialPort, 8) + aml::edge_interrupt(kSerialGsi))));
}

// LNRO0005 is the id that Linux' virtio-mmio driver binds to.
Bytes virtio_mmio(uint32_t slot) {
  const auto start = static_cast<uint32_t>(kVirtioMmioBase + slot * kVirtioMmioStride);
  return aml::device(numbered('V', slot),
                     aml::name("_HID", aml::string("LNRO0005")) + aml::name("_UID", aml::integer(slot)) +
                         aml::name("_CCA", aml::integer(1)) +
                         aml::name("_CRS", aml::resources(aml::memory32_fixed(start, uint32_t{kVirtioMmioStride}) +
                                                          aml::edge_interrupt(kVirtioFirstGsi + slot))));
}

// Drivers bind to the _CID; ACPI wants a _HID of the form NNNN#### beside it.
Bytes generation_id() {
  return aml::device("VGEN", aml::name("_HID", aml::string("GRNY0001")) +
                                 aml::name("_CID", aml::string("VM_Gen_Counter")) +
                                 aml::name("_DDN", aml::string("VM_Gen_Counter")) +
                                 aml::name("ADDR", aml::package({aml::integer(kVmGenIdAddress.value & 0xffff'ffff),
                                                                 aml::integer(kVmGenIdAddress.value >> 32)})));
}

// ACPI 6.4, 5.6.9: its interrupt calls _EVT with the GSI as argument.
Bytes event_device() {
  return aml::device(
      "GED_",
      aml::name("_HID", aml::string("ACPI0013")) + aml::name("_UID", aml::integer(0)) +
          aml::name("_CRS", aml::resources(aml::edge_interrupt(kGedGsi))) +
          aml::method("_EVT", 1, aml::if_arg0_equals(kGedGsi, aml::notify("\\_SB_.VGEN", kNotifyGenerationChanged))));
}

Bytes pvpanic() {
  return aml::device("PEVT", aml::name("_HID", aml::string("QEMU0001")) +
                                 aml::name("_CRS", aml::resources(aml::io_port(kPvpanicPort, 1))) +
                                 aml::name("_STA", aml::integer(kPresentEnabledShownWorking)));
}

}  // namespace

std::string dsdt_body(const AcpiShape& shape) {
  Bytes devices;
  for (uint32_t id = 0; id < shape.vcpus; ++id) devices += processor(id);
  devices += serial_port();
  for (uint32_t slot = 0; slot < shape.virtio_slots; ++slot) devices += virtio_mmio(slot);
  devices += generation_id() + event_device() + pvpanic();
  return aml::scope("\\_SB_", devices) + aml::name("\\_S5_", aml::package({aml::integer(kSleepTypeS5)}));
}

}  // namespace granary::boot
