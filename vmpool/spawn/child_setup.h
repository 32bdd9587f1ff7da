// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <array>

#include "vmpool/base/fd.h"
#include "vmpool/base/units.h"
#include "vmpool/spawn/jail.h"

namespace granary::spawn {

// A descriptor that only the child itself can open: its own /proc/self/fd, O_PATH.
inline constexpr int kOwnFiles = -2;

// What a VMM or a file server is born with. All descriptors are borrowed.
struct ChildPlan {
  const char* name = "";  // of the program, for argv[0], which people see in ps, and for errors
  VmId vm;                // for argv[0]
  int executable = -1;    // O_PATH is enough
  int null = -1;          // /dev/null, becomes standard input
  // Become 3, 4, 5 and 6: see vmm_fds and fsd_fds.
  std::array<int, 4> inherited = {-1, -1, -1, -1};
  int cgroup = -1;  // directory of a cgroup v2 group to be born in; -1: the spawner's own
  Jail jail;
};

struct Child {
  pid_t pid = 0;
  Fd pidfd;
};

// Starts the program in its jail. Returns after its execve(2) succeeded; a failure of any step before that, the exec
// included, is returned with its errno, the step's name and what to do, and the process is reaped already: none runs
// outside a jail. The calling process must be single-threaded.
//
// The child is the first process of a pid namespace of its own (so a signal that it sends to itself without a handler
// does nothing) and is locked in (enter_jail()) before it executes. As its root is empty then, the program must be
// static, and executable for everybody. It gets a session of its own, default signal dispositions, an empty signal
// mask, an empty environment and no descriptor but 0, 1, 2 and the four above. It has no parent-death signal on
// purpose: both outlive a dead spawner. PR_SET_DUMPABLE does not survive exec, so clearing it is the program's own
// first act; it is cleared in the calling process by this, as both share memory until the exec.
Result<Child> start_child(const ChildPlan& plan);

}  // namespace granary::spawn
