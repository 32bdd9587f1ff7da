// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/fd.h"
#include "vmpool/base/units.h"

namespace granary::spawn {

// The directory of the per-clone sockets, opened once: later renames or mounts over its path change nothing. One
// spawner per directory (flock; kAlreadyRunning otherwise).
class RunDirectory {
 public:
  static Result<RunDirectory> open(const std::string& path);

  // Removes the sockets that nobody listens on any more. The highest VM number seen in any name, removed or not, is
  // returned: numbers above it collide with no VMM that outlived an earlier spawner.
  Result<VmId> remove_stale() const;

  static std::string socket_name(VmId vm);
  // A listening SOCK_STREAM socket named socket_name(vm), mode 0600.
  [[nodiscard]] Result<Fd> listen(VmId vm) const;
  // True: removed, false: was absent.
  [[nodiscard]] Result<bool> unlink(VmId vm) const;

 private:
  explicit RunDirectory(Fd directory) : directory_(std::move(directory)) {}
  [[nodiscard]] bool is_listening(const std::string& name) const;
  Fd directory_;
};

}  // namespace granary::spawn
