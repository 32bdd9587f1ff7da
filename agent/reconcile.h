// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "agent/cgroup.h"
#include "agent/journal.h"
#include "agent/networks.h"
#include "vmpool/pool/spawner_client.h"

namespace granary::agent {

// What an agent that starts does with what its predecessor left. Explicit leases whose VM lives are to be adopted;
// everything else (idle clones, shells, templates under construction, leases bound to a call, VMs and cgroups that no
// journal names) is ended here. This is the path that makes a kill -9 harmless, so it is the same after an orderly end.
struct Reconciled {
  std::vector<JournalClone> adopt;  // each with a lease
  struct Ended {
    JournalClone clone;
    std::string reason;  // how it ended while no agent ran
  };
  std::vector<Ended> ended;  // had an explicit lease
  size_t orphans_ended = 0;  // VMs
  size_t groups_removed = 0;
  std::vector<std::string> leaks;  // what could not be ended, by name
};

// `groups` may be null. Fails only when the spawner cannot be asked. Idempotent.
Result<Reconciled> reconcile(Journal& journal, pool::SpawnerClient& spawner, Cgroups* groups, Networks& networks);

}  // namespace granary::agent
