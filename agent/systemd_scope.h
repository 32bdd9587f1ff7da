// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "vmpool/base/result.h"

namespace granary::agent {

// Whether systemd is process 1 here; in a container, the host's if it has the host's processes.
bool systemd_runs();

// Has systemd make a delegated scope below `slice` and move the process there; returns once that is done. The scope
// ends with its last process. Over the system bus, 10 s at most: kDeadlineExceeded. Errors name the scope.
Status start_scope(const std::string& slice, const std::string& scope, int32_t pid);

}  // namespace granary::agent
