// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "agent/config.h"
#include "vmpool/pool/spawner_client.h"

namespace granary::agent {

struct SpawnerFiles {
  std::string libexec_dir;  // holds granary-spawn and granary-vmm
  std::string kvm_path;
};

// The agent's granary-spawn: the one that answers on the configured socket, or one that is started for it, in a session
// of its own so that it outlives the agent; its log is RUN_DIR/granary-spawn.log. VMs that it still has belong to an
// agent that has gone (the state directory's lock says so) and are ended.
class SpawnerProcess {
 public:
  static Result<SpawnerProcess> connect_or_start(const Config& config, const SpawnerFiles& files);

  [[nodiscard]] pool::SpawnerClient& client() const { return *client_; }
  // Ends the spawner if it was started here and has no VMs, and waits until it has gone.
  void end_if_own();

 private:
  SpawnerProcess(std::unique_ptr<pool::SpawnerClient> client, bool own) : client_(std::move(client)), own_(own) {}
  Status end_orphans();
  std::unique_ptr<pool::SpawnerClient> client_;
  bool own_;
};

}  // namespace granary::agent
