// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "netplumb/routed_network.h"
#include "vmpool/base/result.h"
#include "vmpool/base/units.h"
#include "vmpool/pool/pool.h"

namespace granary::agent {

// The agent's configuration. docs/configuration.md describes every key; deploy/granary.yaml is an example.
struct Config {
  std::string run_dir = "/run/granary";              // sockets; gone after a reboot
  std::string state_dir = "/var/lib/granary";        // templates, lock
  std::string socket;                                // empty: granaryd.sock in run_dir
  std::string containerd_events = "/run/containerd/containerd.sock.ttrpc";  // where shims tell containerd what happens
  std::string metrics_address;                       // "host:port"; empty: no metrics over HTTP
  std::string log_level = "info";                    // debug, info, warn, error
  std::chrono::milliseconds shutdown_grace{10'000};  // how long SIGTERM waits for running `Hold` calls
  std::optional<uint64_t> memory_budget;             // bytes, of all pools together
  uint64_t min_available = 150 * kMiB;               // memory.available below which every idle clone is shed
  std::optional<netplumb::RoutedNetwork> network;    // the agent's own; without resolvers: the host's
  pool::TemplateSource guest;                        // for pools whose `template` leaves a key out
  std::vector<pool::PoolSettings> pools;             // at least one; the first is the default pool
  std::string hash;                                  // of the file: 12 hex digits of its SHA-256; empty without one

  [[nodiscard]] std::string socket_path() const;
  [[nodiscard]] std::string spawner_socket_path() const { return run_dir + "/spawn.sock"; }
  [[nodiscard]] std::string shim_door_path() const { return run_dir + "/shims.sock"; }
  [[nodiscard]] std::string task_directory() const { return run_dir + "/tasks"; }
};

inline constexpr size_t kMaxPools = 64;

// What runs without a file: one pool "default", 1 vCPU, 256 MiB, 4 warm clones, the installed guest.
Config default_config();

// Parses and checks a whole configuration; kConfigInvalid "name:line:column: key: reason; remedy" for the first
// mistake. Files that the configuration names are not opened. With `running`, as it was parsed, the new one is to
// replace it without a restart: then run_dir, state_dir and socket must be the same.
Result<Config> parse_config(std::string_view text, const std::string& name, const Config* running = nullptr);
// The same from a file; an errno error when it cannot be read.
Result<Config> load_config(const std::string& path, const Config* running = nullptr);
// For what flags may change after parsing: run_dir, state_dir and socket are absolute and short enough for a socket
// address.
Status check_paths(const Config& config);

}  // namespace granary::agent
