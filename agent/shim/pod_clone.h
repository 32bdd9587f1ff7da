// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "agent/shim/sandbox_spec.h"
#include "agent/shim/ttrpc_client.h"
#include "granary/v1/acquire.pb.h"

namespace granary::shim {

// The clone of a pod that its shim takes itself (granary.v1.Pool over ttrpc, agent/shim_door.h), held under
// owner_of_sandbox(). The lease outlives the agent; the shim's end ends it (agent/shim_watch.h). One thread; callbacks come
// from the loop.
class PodClone {
 public:
  static constexpr std::chrono::seconds kRetry{1};

  PodClone(EventLoop& loop, const std::string& agent_socket, const std::string& sandbox_id);
  ~PodClone();
  PodClone(const PodClone&) = delete;
  PodClone& operator=(const PodClone&) = delete;

  // Waits at most `wait` for a clone when the pool has none. Errors are the agent's; kPeerGone: no agent runs.
  void take(const SandboxSpec& spec, std::chrono::milliseconds wait, std::function<void(Result<v1::AcquireResponse>)> done);
  // Until the agent has reclaimed it. While no agent runs, or it cannot, every kRetry: `is_gone` is asked whether the
  // clone has ended by itself, which is enough then; the next agent finds the rest.
  void give_back(std::function<bool()> is_gone, std::function<void()> done);

 private:
  EventLoop& loop_;
  ttrpc::Client client_;
  const std::string owner_;
  EventLoop::Token timer_ = 0;
};

}  // namespace granary::shim
