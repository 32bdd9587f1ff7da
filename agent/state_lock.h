// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/fd.h"

namespace granary::agent {

// One agent per state directory: DIR/granaryd.lock, flock(2)ed as long as the descriptor is open, with the holder's pid
// as text. Makes the directory (0700) if it is missing. kAlreadyRunning names the directory and the other's pid.
Result<Fd> lock_state_directory(const std::string& directory);

// mkdir -p with mode 0700; what exists already is left as it is.
Status make_directories(const std::string& directory);

}  // namespace granary::agent
