// SPDX-License-Identifier: Apache-2.0
#include "agent/config_source.h"

namespace granary::agent {

Result<Config> ConfigSource::load() {
  Config config = path_.empty() ? default_config() : GRANARY_TRY(load_config(path_, first_ ? &*first_ : nullptr));
  if (!first_) first_ = config;
  if (!overrides_.run_dir.empty()) config.run_dir = overrides_.run_dir;
  if (!overrides_.state_dir.empty()) config.state_dir = overrides_.state_dir;
  GRANARY_TRY(check_paths(config));
  return config;
}

}  // namespace granary::agent
