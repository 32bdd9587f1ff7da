// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "vmpool/base/result.h"

namespace granary::agent {

inline constexpr const char* kSpawnerUnit = "granary-spawn.service";

// Asks the host's systemd, over the system bus, to run this granary-spawn as a transient unit with the properties of
// systemd/granary-spawn.service: in the host's namespaces and a cgroup of its own, with nothing of the caller's
// container. Returns once systemd has taken the order. EEXIST: the unit is there already.
Status start_spawner_unit(const std::vector<std::string>& argv);

}  // namespace granary::agent
