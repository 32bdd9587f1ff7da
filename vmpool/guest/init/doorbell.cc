// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/doorbell.h"

#include <sys/io.h>

namespace granary::guest {

Status ring_doorbell(machine::Doorbell value) {
  if (::ioperm(machine::kDoorbellPort, 1, 1) != 0) return Error::last_os_error("ioperm of the doorbell port");
  ::outb(static_cast<unsigned char>(value), machine::kDoorbellPort);
  // A process with I/O permissions pays for them at each task switch.
  ::ioperm(machine::kDoorbellPort, 1, 0);
  return ok();
}

}  // namespace granary::guest
