// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/boot/acpi.h"

namespace granary::boot {

// The AML of the DSDT, without its header: \_SB with processors, COM1, one LNRO0005 per virtio-mmio slot, the generic
// event device that announces a new VM generation id, the VMGenID device and pvpanic; \_S5. For a valid shape.
std::string dsdt_body(const AcpiShape& shape);

}  // namespace granary::boot
