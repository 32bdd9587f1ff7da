// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "vmpool/base/result.h"
#include "vmpool/guest/guest.pb.h"

// The guest's cgroups (Linux: Documentation/admin-guide/cgroup-v2.rst). `folder` is a cgroup's.
namespace granary::guest::cgroup {

// The folder, and in its parent the controllers that the kernel has for it.
Status make(const std::string& folder);
// Limits of 0 are lifted. May reclaim memory, so it may take long.
Status set_limits(const std::string& folder, const v1::Limits& limits);
// Stops every process in it and below until it is thawed; SIGKILL ends frozen ones too. Waits until the kernel has
// them; EBUSY: one that is in the middle of something in the kernel does not stop, and then all of them go on.
Status freeze(const std::string& folder);
Status thaw(const std::string& folder);
// What can be read; the rest stays 0. `folder` and all below it.
v1::ContainerState read_state(const std::string& folder);
// Processes of it and below that were killed for want of memory.
uint64_t oom_kills(const std::string& folder);
// Every process in it and below; false if there is none.
bool signal_all(const std::string& folder, int signal);
// With all below it. Waits for the kernel to let go of processes that were killed. ok if there is none.
Status remove(const std::string& folder);

}  // namespace granary::guest::cgroup
