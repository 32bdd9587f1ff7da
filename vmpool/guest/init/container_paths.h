// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace granary::guest {

// Where pods and containers live in a guest. Tests put other folders and programs here.
struct ContainerPaths {
  std::string run = "/run/granary";
  std::string cgroups = "/sys/fs/cgroup";
  std::string sysctls = "/proc/sys";
  std::string disks = "/sys/block";
  std::string crun = "/bin/crun";

  // Where the host's file server is mounted, with a folder or file for each export.
  [[nodiscard]] std::string shares() const { return run + "/shares"; }
  [[nodiscard]] std::string pod() const { return run + "/pod"; }
  [[nodiscard]] std::string pod_cgroup() const { return cgroups + "/pod"; }
  [[nodiscard]] std::string bundle(const std::string& id) const { return run + "/containers/" + id; }
  // crun's own records.
  [[nodiscard]] std::string crun_state() const { return run + "/crun"; }
  // Short names for what belongs to one call of crun: a socket's path has 107 bytes at most.
  [[nodiscard]] std::string calls() const { return run + "/calls"; }
};

}  // namespace granary::guest
