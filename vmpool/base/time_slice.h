// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace granary {

enum class Children { kInherit, kDefault };

// Asks the scheduler for short time slices for the calling thread, so that after a wakeup it soon runs in place of a guest that
// keeps a CPU busy: it gets no larger share of the CPU, only smaller pieces earlier (EEVDF, Linux 6.12 and newer:
// sched_setattr(2) with sched_runtime under SCHED_OTHER; older kernels ignore it). `children`: whether threads and processes
// that it starts have the same. Failure is harmless and not told.
void prefer_short_time_slices(Children children);

}  // namespace granary
