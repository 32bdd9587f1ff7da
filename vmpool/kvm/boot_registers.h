// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmpool/boot/boot_plan.h"
#include "vmpool/kvm/vcpu.h"

namespace granary::kvm {

// Registers of the boot vCPU (id 0), as `plan` says; the other vCPUs wait for their start-up IPI as KVM made them.
Status apply_boot_registers(Vcpu& vcpu, const boot::BootPlan& plan);

// What firmware would have set up on every vCPU before an operating system starts: MTRRs on with write-back as the
// default, fast strings, LINT1 = NMI, LINT0 masked: GSIs 0-15 are also pins of the PIC, which hardware-reduced ACPI
// leaves uninitialised, so that its vectors would hit exceptions. Call it on each vCPU after its CPUID is set.
Status apply_firmware_state(Vcpu& vcpu);

}  // namespace granary::kvm
