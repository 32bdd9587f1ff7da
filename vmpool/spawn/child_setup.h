// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include "vmpool/base/fd.h"
#include "vmpool/base/units.h"
#include "vmpool/spawn/jail.h"

namespace granary::spawn {

// What a VMM process is born with. All descriptors are borrowed.
struct ChildPlan {
  VmId vm;              // for argv[0], which people see in ps
  int executable = -1;  // granary-vmm, O_PATH is enough
  int null = -1;        // /dev/null, becomes standard input
  int control = -1;     // -> vmm_fds::kControlSocket
  int status = -1;      // -> vmm_fds::kStatusPage
  int listener = -1;    // -> vmm_fds::kVsockListener
  int kvm = -1;         // -> vmm_fds::kKvm
  int cgroup = -1;      // directory of a cgroup v2 group to be born in; -1: the spawner's own
  Jail jail;
};

struct Child {
  pid_t pid = 0;
  Fd pidfd;
};

// Starts the VMM in its jail. Returns after its execve(2) succeeded; a failure of any step before that, the exec
// included, is returned with its errno, the step's name and what to do, and the process is reaped already: no VMM runs
// outside a jail. The calling process must be single-threaded.
//
// The child is the first process of a pid namespace of its own (so a signal that it sends to itself without a handler
// does nothing) and is locked in (enter_jail()) before it executes. As its root is empty then, the program must be
// static, and executable for everybody. It gets a session of its own, default signal dispositions, an empty signal
// mask, an empty environment and no descriptor but 0, 1, 2 and the four above. It has no parent-death signal on
// purpose: VMMs outlive a dead spawner. PR_SET_DUMPABLE does not survive exec, so clearing it is the VMM's own first
// act; it is cleared in the calling process by this, as both share memory until the exec.
Result<Child> start_child(const ChildPlan& plan);

}  // namespace granary::spawn
