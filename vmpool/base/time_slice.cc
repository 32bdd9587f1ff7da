// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/time_slice.h"

#include <linux/sched.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace granary {

void prefer_short_time_slices(Children children) {
  constexpr uint64_t kShortestSliceNs = 100'000;  // what the kernel grants at least
  sched_attr attributes{};
  attributes.size = sizeof(attributes);
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0) return;
  if (attributes.sched_policy != SCHED_NORMAL) return;  // somebody has decided otherwise
  attributes.sched_runtime = kShortestSliceNs;
  attributes.sched_flags = children == Children::kDefault ? SCHED_FLAG_RESET_ON_FORK : 0;
  ::syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace granary
