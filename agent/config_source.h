// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "agent/config.h"

namespace granary::agent {

// Where the agent's configuration comes from, at the start and again and again while it runs: a file, or the defaults
// where there is none. Belongs to one thread at a time.
class ConfigSource {
 public:
  // What is not empty replaces the file's key.
  struct Overrides {
    std::string run_dir;
    std::string state_dir;
  };
  ConfigSource(std::string path, Overrides overrides) : path_(std::move(path)), overrides_(std::move(overrides)) {}

  // Errors of load_config() and check_paths(). After the first success what cannot change at run time is refused.
  Result<Config> load();
  // Empty: the defaults, which do not change.
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
  Overrides overrides_;
  std::optional<Config> first_;
};

}  // namespace granary::agent
