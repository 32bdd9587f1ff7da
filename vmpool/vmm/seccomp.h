// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "vmpool/base/result.h"

// granary-vmm's system-call filters (seccomp_policy.h). A call that the thread's filters do not allow kills the whole
// process with SIGSYS; granary-spawn makes that EndState::kSeccompViolation. Programs built with a sanitizer have no
// filters: its runtime makes calls of its own.
namespace granary::vmm::seccomp {

enum class Filter : uint8_t {
  kSetup,   // the process until its machine exists; threads inherit it
  kLoop,    // the loop thread from then on
  kVcpu,    // a vCPU's thread
  kWorker,  // the I/O worker's thread
};

// For the calling thread and the threads that it starts later, for good. Only kSetup lets further filters follow. The
// process must have no_new_privs. Error: the errno of seccomp(2).
Status enter(Filter filter);

// The same for a thread's first act: ends the process if it fails, as nobody is there to take an error.
void enter_or_end(Filter filter);

}  // namespace granary::vmm::seccomp
