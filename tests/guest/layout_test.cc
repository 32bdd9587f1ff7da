// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/layout.h"

#include "vmpool/base/machine_layout.h"

// No case to run: the program does not build when the tiny guests and the machine disagree.
namespace granary::machine {

static_assert(TINY_VIRTIO_BASE == kVirtioMmioBase);
static_assert(TINY_VIRTIO_STRIDE == kVirtioMmioStride);
static_assert(TINY_VIRTIO_SLOTS == kMaxVirtioSlots);
static_assert(TINY_SERIAL_PORT == kSerialPort);
static_assert(TINY_I8042_PORT == kI8042CommandPort);
static_assert(TINY_SLEEP_PORT == kSleepControlPort);
static_assert(TINY_RESET_PORT == kResetPort);
static_assert(TINY_RESET_VALUE == kResetValue);
static_assert(TINY_SLEEP_S5 == kSleepTypeS5);
static_assert(TINY_PVPANIC_PORT == kPvpanicPort);
static_assert(TINY_DOORBELL_PORT == kDoorbellPort);
static_assert(TINY_VMGENID_ADDRESS == kVmGenIdAddress.value);
static_assert(TINY_VSOCK_HOST_CID == kVsockHostCid);
static_assert(TINY_VSOCK_PORT == kInitVsockPort);
static_assert(TINY_BELL_READY == static_cast<int>(Doorbell::kReady));
static_assert(TINY_MARK_START == static_cast<int>(Doorbell::kTestMark));
static_assert(TINY_MARK_DAMAGED == static_cast<int>(Doorbell::kTestMark) + 0xf);

}  // namespace granary::machine
