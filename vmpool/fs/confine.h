// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "vmpool/base/fsd_capabilities.h"
#include "vmpool/base/result.h"

namespace granary::fs {

// How much a guest can make this process hold.
struct Limits {
  size_t nodes = 0;    // inodes, one descriptor each
  size_t handles = 0;  // open files, directories and owners of locks
};

// From the hard limit of open files, to which the soft one is raised.
Result<Limits> raise_limits();

// Drops all capabilities but kKeptCapabilities (libcap-ng), and forbids new ones by exec. granary-spawn has done that
// already, the bounding set included; whoever else starts this program has not.
Status drop_privileges();

// Loads the system-call filter (libseccomp): what is not in it ends the process. Builds with a sanitizer have none.
Status enter_filter();

}  // namespace granary::fs
