// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <functional>

#include "agent/config_source.h"
#include "agent/pool_set.h"

namespace granary::agent {

// Brings the running agent to the newest configuration, or, where that is refused, leaves it as it is and says why in
// the log and in the status. reload() belongs to one thread.
class Reload {
 public:
  // `adapt`: what this host adds to every configuration. `running` is the one that `pools` were started with.
  Reload(ConfigSource& source, PoolSet& pools, std::function<Config(Config)> adapt, const Config& running)
      : source_(source), pools_(pools), adapt_(std::move(adapt)), grace_(running.shutdown_grace) {}
  // `asked` by somebody, who then gets a line in the log also when nothing changed.
  void reload(bool asked);
  // The newest `shutdown_grace`; any thread.
  [[nodiscard]] std::chrono::milliseconds shutdown_grace() const { return grace_; }

 private:
  void refuse(const Error& error, bool asked);

  ConfigSource& source_;
  PoolSet& pools_;
  std::function<Config(Config)> adapt_;
  std::atomic<std::chrono::milliseconds> grace_;
};

}  // namespace granary::agent
