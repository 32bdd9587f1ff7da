// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/result.h"

namespace granary::shim {

// Where a process of a container is in its life; the container's own process and those of execs have the same.
enum class Phase {
  kCreating,  // the guest was asked to create it; of an exec: never
  kCreated,   // it waits for Start
  kStarting,  // the guest was asked to start it
  kRunning,
  kStopped,  // it has ended; its record stays until Delete
  kDeleting,
};
inline constexpr int kPhases = 6;

// What containerd asks of a process that is known.
enum class Operation {
  kStart,
  kKill,
  kDelete,
  kExec,
  kCloseIo,
  kResizePty,
  kUpdate,
  kPause,
  kStats,
  kPids,
  kWait,
  kState
};
inline constexpr int kOperations = 12;

const char* to_string(Phase phase);
const char* to_string(Operation operation);

// Whether an operation is possible now. NOT_FOUND: there is nothing (any more) that it could act on, which callers like
// a kill that came too late expect; FAILED_PRECONDITION: not now. `name`: of the process, for the text.
Status check_operation(Operation operation, Phase phase, const std::string& name);

}  // namespace granary::shim
