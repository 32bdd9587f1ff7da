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
// of its own so that it outlives the agent; its log is RUN_DIR/granary-spawn.log. One that was started here ends by itself
// once it has neither VMs nor clients.
class SpawnerProcess {
 public:
  static Result<SpawnerProcess> connect_or_start(const Config& config, const SpawnerFiles& files);

  [[nodiscard]] pool::SpawnerClient& client() const { return *client_; }
  // Closes the connection; if that is the end of the spawner, waits for it.
  void wait_if_unused();

 private:
  explicit SpawnerProcess(std::unique_ptr<pool::SpawnerClient> client) : client_(std::move(client)) {}
  std::unique_ptr<pool::SpawnerClient> client_;
};

}  // namespace granary::agent
