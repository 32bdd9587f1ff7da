// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "agent/config_source.h"

namespace granary::agent {

// Exit codes of granaryd; docs/configuration.md lists them.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitConfig = 2;   // configuration or command line refused
inline constexpr int kExitHost = 3;     // the preflight says that this host cannot run Linux guests
inline constexpr int kExitRunning = 4;  // another agent holds the state directory

struct DaemonOptions {
  Config config;  // what `source` loaded
  ConfigSource& source;
  std::string libexec_dir;
  std::string
      host_libexec_dir;  // in a container: where on the host copies of those run, started by systemd; else empty
  std::string kvm_path;
  std::string proc;             // where the kernel tells of memory: /proc, or a test's folder
  std::string cgroup_parent;    // of the clones' groups, below the root of every hierarchy
  bool skip_preflight = false;  // log what it says, start anyway: tiny guests, tests
};

// Runs the agent until SIGTERM or SIGINT; a second one ends the wait for running Hold calls. Returns the exit code;
// errors are logged.
int run_daemon(const DaemonOptions& options);

}  // namespace granary::agent
