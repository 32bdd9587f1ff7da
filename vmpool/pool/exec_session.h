// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "vmpool/pool/process_session.h"

namespace granary::guest::v1 {
class Exec;
}

namespace granary::pool {

// A command in a clone, or (Exec.container_id) in a container of it. It gets SIGHUP when its session is destroyed
// before it exited.
class ExecSession : public ProcessSession {
 public:
  // Errors: ENOENT for a command or a container that is not there (127 of a shell), EACCES for one that cannot be
  // executed (126), kInvalidArgument for a request that the guest refuses or that does not fit a frame of 1 MiB;
  // kContainerFailed, kGuestUnresponsive, kGuestProtocol, kPeerGone.
  static Result<std::unique_ptr<ExecSession>> start(const std::string& socket_path, const guest::v1::Exec& exec,
                                                    SteadyTime deadline);

 private:
  using ProcessSession::ProcessSession;
};

}  // namespace granary::pool
