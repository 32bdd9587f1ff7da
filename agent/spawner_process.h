// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "agent/config.h"
#include "vmpool/pool/spawner_client.h"

namespace granary::agent {

struct SpawnerFiles {
  std::string libexec_dir;  // holds granary-spawn, granary-vmm and granary-fsd
  std::string kvm_path;
  bool as_unit = false;  // systemd starts it, not the agent: what the agent forks would be part of its container
};

// The agent's granary-spawn: the one that answers on the configured socket, or one that is started for it, in a session
// of its own so that it outlives the agent; its log is RUN_DIR/granary-spawn.log, a unit's is in the journal. One that
// was started here ends by itself once it has neither VMs nor clients.
class SpawnerProcess {
 public:
  static Result<std::unique_ptr<SpawnerProcess>> connect_or_start(const Config& config, const SpawnerFiles& files);
  SpawnerProcess(const SpawnerProcess&) = delete;
  SpawnerProcess& operator=(const SpawnerProcess&) = delete;

  [[nodiscard]] pool::SpawnerClient& client() const { return *client_; }
  // From now on a spawner that dies is replaced; `replaced` is called, on a thread of this object, once the client is
  // connected to its successor, which knows no VM.
  void keep(std::function<void()> replaced);
  // No more replacing, and no callback from here on.
  void stop_keeping() { keeper_ = {}; }
  // Closes the connection; if that is the end of the spawner, waits for it.
  void wait_if_unused();

 private:
  SpawnerProcess(const Config& config, SpawnerFiles files, std::unique_ptr<pool::SpawnerClient> client)
      : config_(config), files_(std::move(files)), client_(std::move(client)) {}
  bool replace(const std::stop_token& stop);

  const Config config_;
  const SpawnerFiles files_;
  std::unique_ptr<pool::SpawnerClient> client_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool lost_ = false;
  std::jthread keeper_;  // last: it uses all of the above
};

}  // namespace granary::agent
