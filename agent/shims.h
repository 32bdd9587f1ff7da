// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "agent/leases.h"
#include "vmpool/pool/pool.h"
#include "vmpool/pool/spawner_client.h"

namespace granary::agent {

// The shims of pods (agent/shim), one process and one listening socket per sandbox: children of the spawner, so that
// they outlive the agent. The lease of a sandbox's clone ("cri/<sandbox id>") is in the journal before its shim is
// started and names it: at an agent's start every shim and socket without such a lease is taken away. Thread-safe.
class Shims {
 public:
  struct Paths {
    std::string directory;      // of the sockets: <directory>/<sandbox id>.sock
    std::string agent_socket;   // ShimDoor's
    std::string events_socket;  // containerd's; empty: none
  };
  Shims(pool::SpawnerClient& spawner, Paths paths) : spawner_(spawner), paths_(std::move(paths)) {}

  // Idempotent. kInvalidArgument: the socket's path would be too long; errors of SpawnerClient::start_shim(). Nothing
  // is left of one that failed.
  // `netns`: path of the pod's network namespace, whose ports it forwards; empty: none.
  Status start(const std::string& sandbox_id, const pool::CloneInfo& clone, const std::string& netns = "");
  // Ends the process and removes its socket; also when there is none.
  Status stop(const std::string& sandbox_id);
  // At an agent's start: takes up the shims of `kept` sandboxes and ends all others. A text for each that could not be.
  std::vector<std::string> reconcile(const std::set<std::string>& kept);
  // reconcile() found that its shim had ended while no agent ran.
  [[nodiscard]] bool was_lost(const std::string& sandbox_id);
  // What of the spawner's processes and of the sockets does not agree with those that are known here, and sandboxes among
  // `leases` that have lost their shim: a text for each.
  std::vector<std::string> differences(const std::vector<Lease>& leases);
  // Gives the shims to a spawner that came after a lost one.
  void spawner_replaced();

  // What containerd is told: ttrpc+unix://PATH.
  [[nodiscard]] std::string address(const std::string& sandbox_id) const {
    return "ttrpc+unix://" + socket_path(sandbox_id);
  }

 private:
  [[nodiscard]] std::string socket_path(const std::string& sandbox_id) const;
  // Of the sandboxes whose sockets are in the task directory.
  [[nodiscard]] std::set<std::string> listening() const;
  Status remove_socket(const std::string& sandbox_id) const;

  pool::SpawnerClient& spawner_;
  const Paths paths_;
  std::mutex mutex_;
  std::map<std::string, pool::SpawnedShim> shims_;
  std::set<std::string> lost_;
};

}  // namespace granary::agent
