// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "vmpool/pool/process_session.h"

namespace granary::guest::v1 {
class ContainerCreate;
class ContainerDelete;
class ContainerFreeze;
class ContainerKill;
class ContainerQuery;
class ContainerState;
class ContainerUpdate;
class Pod;
}  // namespace granary::guest::v1

namespace granary::pool {

// A container in a clone: its conversation from creation to Exited. Its threads are ProcessSession's; start() belongs
// to the one that takes events. The container is killed when its session is destroyed before it exited, and stays to be
// deleted with delete_container(). A command in it is an ExecSession with Exec.container_id.
class ContainerSession : public ProcessSession {
 public:
  // The container is there and its first process (guest_pid()) waits for start(). kOutOfMemory comes at most once,
  // before kExited. Errors: EEXIST, kInvalidArgument (the spec or the request), kContainerFailed (what crun said),
  // ENOENT (the root file system is missing), kGuestUnresponsive, kGuestProtocol, kPeerGone. Nothing is left of a
  // container that failed.
  static Result<std::unique_ptr<ContainerSession>> create(const std::string& socket_path,
                                                          const guest::v1::ContainerCreate& create,
                                                          SteadyTime deadline);

  // Runs what create() made. Before it nothing may be written to its standard input. kContainerFailed, kInvalidArgument
  // for a second start, ENOENT when the container was killed first; next() then goes on to kExited.
  Status start(SteadyTime deadline);

 private:
  using ProcessSession::ProcessSession;
};

// One question and its answer on a connection of its own. Errors: ENOENT (no such container, or its process has ended),
// kInvalidArgument, kContainerFailed, kGuestUnresponsive, kGuestProtocol, kPeerGone.

// Makes what the pod's containers share, or changes it.
Status set_pod(const std::string& socket_path, const guest::v1::Pod& pod, SteadyTime deadline);
Status kill_container(const std::string& socket_path, const guest::v1::ContainerKill& kill, SteadyTime deadline);
// Waits until nothing of it is left. With `force` one that is not there is no error.
Status delete_container(const std::string& socket_path, const guest::v1::ContainerDelete& request, SteadyTime deadline);
Status update_container(const std::string& socket_path, const guest::v1::ContainerUpdate& update, SteadyTime deadline);
Status freeze_container(const std::string& socket_path, const guest::v1::ContainerFreeze& freeze, SteadyTime deadline);
// Of a hostile guest: its numbers are what it says.
Result<guest::v1::ContainerState> query_container(const std::string& socket_path,
                                                  const guest::v1::ContainerQuery& query, SteadyTime deadline);

}  // namespace granary::pool
