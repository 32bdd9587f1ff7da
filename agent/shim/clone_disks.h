// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "agent/shim/ttrpc_client.h"

namespace granary::shim {

// Disks of the pod's clone, which the agent attaches (granary.v1.Pool over ttrpc, agent/shim_door.h). While no agent
// runs there is nobody to ask: kPeerGone, which callers are told as UNAVAILABLE.
class CloneDisks {
 public:
  CloneDisks(EventLoop& loop, const std::string& agent_socket, std::string clone_id)
      : client_(loop, agent_socket), clone_id_(std::move(clone_id)) {}

  // `done` gets the number of the guest's virtio-blk device. `file` is borrowed.
  void attach(int file, bool read_only, std::function<void(Result<uint32_t>)> done);
  // What nothing in the guest uses any more. Failure is logged: the disk goes with the clone at the latest.
  void detach(uint32_t disk);

 private:
  ttrpc::Client client_;
  std::string clone_id_;
};

}  // namespace granary::shim
