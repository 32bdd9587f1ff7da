// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include "vmpool/base/fd.h"
#include "vmpool/base/units.h"

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
};

struct Child {
  pid_t pid = 0;
  Fd pidfd;
};

// Starts the VMM. Returns after its execve(2) succeeded; a failure of any step before that, the exec included, is
// returned with its errno and the step's name, and the process is reaped already. The calling process must be
// single-threaded.
//
// The child gets a session of its own, default signal dispositions, an empty signal mask, an empty environment, a core
// limit of 0 (guest memory must not reach a disk) and no descriptor but 0, 1, 2 and the four above. It has no
// parent-death signal on purpose: VMMs outlive a dead spawner. PR_SET_DUMPABLE does not survive exec, so clearing it is
// the VMM's own first act.
Result<Child> start_child(const ChildPlan& plan);

}  // namespace granary::spawn
