// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>

#include "vmpool/guest/init/session.h"

namespace granary::guest {

// A listening socket: AF_VSOCK, any context id. EAFNOSUPPORT without the kernel's vsock module.
Result<Fd> listen_vsock(uint32_t port);
// A listening unix socket at `path`, which must not exist.
Result<Fd> listen_unix(const std::string& path);

// Serves the guest protocol to everyone who connects. Runs on the event loop's thread; outlives no part of `loop`.
class Server {
 public:
  static Result<std::unique_ptr<Server>> create(EventLoop& loop, System& system, Fd listener,
                                                ContainerPaths container_paths = {});
  [[nodiscard]] size_t sessions() const { return sessions_.size(); }

 private:
  Server(EventLoop& loop, System& system, Fd listener, std::unique_ptr<Reaper> reaper, ContainerPaths container_paths);
  Status watch_listener();
  void accept_one();

  EventLoop& loop_;
  System& system_;
  Fd listener_;
  Watch watch_;
  std::unique_ptr<Reaper> reaper_;
  GuestIdentity identity_;
  ClockKeeper clock_;
  Containers containers_;
  uint64_t next_session_ = 1;
  std::map<uint64_t, std::unique_ptr<Session>> sessions_;
};

}  // namespace granary::guest
