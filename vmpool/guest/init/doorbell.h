// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmpool/base/machine_layout.h"
#include "vmpool/base/result.h"

namespace granary::guest {

// Tells the VMM what the guest has reached: one byte to machine::kDoorbellPort. EPERM without CAP_SYS_RAWIO, ENOSYS on
// a kernel without CONFIG_X86_IOPL_IOPERM.
Status ring_doorbell(machine::Doorbell value);

}  // namespace granary::guest
