// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "vmpool/base/container_id.h"

// Names by which an agent and a shim that takes its pod itself (containerd 1.6, 1.7 and CRI-O) know each other.
namespace granary::shim {

// run_dir of granaryd unless its configuration says otherwise.
inline constexpr const char* kDefaultRunDir = "/run/granary";
inline constexpr std::string_view kOwnerPrefix = "shim/";

// Who holds the clone of such a pod.
inline std::string owner_of_sandbox(const std::string& sandbox_id) { return std::string(kOwnerPrefix) + sandbox_id; }
// Empty: the owner is none, or what it names could not be a file's name.
inline std::string sandbox_of_owner(const std::string& owner_id) {
  if (!owner_id.starts_with(kOwnerPrefix)) return "";
  const std::string sandbox_id = owner_id.substr(kOwnerPrefix.size());
  return is_id(sandbox_id) ? sandbox_id : "";
}
// Where granaryd answers shims.
inline std::string agent_socket_in(const std::string& run_dir) { return run_dir + "/shims.sock"; }
// The folder of such shims' sockets, and that of a pod's Task service in it.
inline std::string own_shims_folder(const std::string& run_dir) { return run_dir + "/shims"; }
inline std::string own_shim_socket(const std::string& run_dir, const std::string& sandbox_id) {
  return own_shims_folder(run_dir) + "/" + sandbox_id + ".sock";
}

}  // namespace granary::shim
