// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "agent/cgroup.h"
#include "agent/journal.h"
#include "vmpool/pool/pool.h"
#include "vmpool/pool/spawner_client.h"

namespace granary::agent {

// One look at everything that should agree: the journal's file, the host (the spawner's processes, per-clone sockets,
// cgroups) and the agent's own view. Plain values, so that the comparison needs neither.
struct AuditSample {
  Journal::Clones journal;             // as the file says
  std::vector<control::VmRecord> vms;  // of the spawner
  std::vector<std::string> sockets;    // names in the run directory: N.sock of VMMs, N.fsd of their file servers
  // In the pool's part, and of those in owners' groups the ones that the journal names and that are there. Nothing: no
  // cgroups, or another agent uses the same parent.
  std::optional<std::set<std::string>> groups;
  std::set<std::string> namespaces;       // network namespaces that the journal says are wired
  std::vector<std::string> others;        // differences that the agent's own network and the shims found
  std::vector<Lease> leases;              // the agent's
  std::vector<pool::CloneStatus> clones;  // the pools'
};

// One line per difference, each naming the thing; empty when all agree.
std::vector<std::string> differences(const AuditSample& sample);

}  // namespace granary::agent
