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
  // The same for the VM's file server: SOCK_SEQPACKET, for export clients (fs/export_client.h).
  static std::string fsd_socket_name(VmId vm);
  [[nodiscard]] Result<Fd> listen_fsd(VmId vm) const;
  // Both sockets. True: removed, false: there was none.
  [[nodiscard]] Result<bool> unlink(VmId vm) const;
  [[nodiscard]] Result<bool> unlink_fsd(VmId vm) const;

 private:
  explicit RunDirectory(Fd directory) : directory_(std::move(directory)) {}
  [[nodiscard]] Result<Fd> listen_at(const std::string& name, int type) const;
  [[nodiscard]] Result<bool> unlink_name(const std::string& name) const;
  [[nodiscard]] bool is_listening(const std::string& name) const;
  Fd directory_;
};

}  // namespace granary::spawn
