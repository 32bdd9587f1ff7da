// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "vmpool/base/result.h"

namespace granary::guest {

// CLOCK_REALTIME of the host in nanoseconds, from the VMM (machine::kClockVsockPort). Waits for it,
// for a second at most per try.
Result<int64_t> read_host_clock();

}  // namespace granary::guest
