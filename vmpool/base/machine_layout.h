// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "vmpool/base/units.h"

// Granary's virtual machine as the guest sees it: addresses, ports and interrupt lines. One place, because the ACPI tables
// (boot/), the VMM's bus (vmm/), the tiny guests (tests/guest/) and granary-init must agree. A change here changes the
// template key through the VMM build id.
namespace granary::machine {

// virtio-mmio windows (virtio 1.2, 4.2): slot n at kVirtioMmioBase + n * kVirtioMmioStride, GSI kVirtioFirstGsi + n.
inline constexpr uint64_t kVirtioMmioBase = 0xd000'0000;
inline constexpr uint64_t kVirtioMmioStride = 0x1000;
inline constexpr uint32_t kVirtioFirstGsi = 5;
inline constexpr uint32_t kMaxVirtioSlots = 19;  // GSIs 5-23, the last IOAPIC pin

// 16550 UART, COM1.
inline constexpr uint16_t kSerialPort = 0x3f8;
inline constexpr uint32_t kSerialGsi = 4;

// i8042 command port: writing 0xfe asks for a reset (Linux reboot=k).
inline constexpr uint16_t kI8042CommandPort = 0x64;

// ACPI hardware-reduced registers (ACPI 6.4, 4.8.3.7): one byte each.
inline constexpr uint16_t kSleepControlPort = 0x600;
inline constexpr uint16_t kSleepStatusPort = 0x601;
inline constexpr uint16_t kResetPort = 0x602;
inline constexpr uint8_t kResetValue = 1;
// SLP_TYP value of \_S5 in the DSDT, bits 2-4 of the sleep control register; SLP_EN is bit 5.
inline constexpr uint8_t kSleepTypeS5 = 5;

// pvpanic (QEMU docs/specs/pvpanic): bit 0 = panicked.
inline constexpr uint16_t kPvpanicPort = 0x505;

// Doorbell: a byte written here tells the VMM what the guest has reached. Only granary-init and tiny guests use it.
inline constexpr uint16_t kDoorbellPort = 0x520;
enum class Doorbell : uint8_t {
  kReady = 1,            // granary-init listens: the quiescent point is near
  kOrderlyShutdown = 2,  // granary-init is about to power off or reboot on purpose
  kTestMark = 0x10,      // tiny guests: "this instruction was reached" (0x10-0x1f)
};

// Generic Event Device (ACPI 6.4, 5.6.9): signals a VMGenID change.
inline constexpr uint32_t kGedGsi = 3;
// 16 bytes of VM generation id, in a reserved page (Microsoft's VMGenID specification).
inline constexpr Gpa kVmGenIdAddress{0xe'f000};

// vsock (virtio 1.2, 5.10): context ids, and the port that granary-init listens on.
inline constexpr uint64_t kVsockHostCid = 2;
inline constexpr uint64_t kVsockGuestCid = 3;
inline constexpr uint32_t kInitVsockPort = 1024;
// The host's: a guest that connects gets eight bytes, CLOCK_REALTIME of the host in nanoseconds, little-endian. The VMM itself
// answers, so it needs no agent.
inline constexpr uint32_t kClockVsockPort = 1025;

// Mount tag of the file system device (virtio 1.2, 5.11).
inline constexpr char kFsTag[] = "granary";

inline constexpr uint32_t kMaxVcpus = 8;

}  // namespace granary::machine
