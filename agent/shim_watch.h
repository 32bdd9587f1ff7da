// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "agent/leases.h"
#include "vmpool/base/event_loop.h"

namespace granary::agent {

// Notices when a shim that took its pod itself (agent/shim/own_pod.h) has ended, however it did: it is containerd's
// child, not the spawner's, so all that tells is its socket, to which this keeps a connection. A pod without its shim
// has lost its containers, and nobody else would give its clone back when containerd cannot. A thread of its own;
// thread-safe.
class ShimWatch {
 public:
  static constexpr std::chrono::seconds kRetry{1};

  // `run_dir` holds the shims' sockets. `ended` is called on the watch's thread, once per watch(), and must not block.
  static Result<std::unique_ptr<ShimWatch>> start(std::string run_dir,
                                                  std::function<void(const std::string& sandbox_id)> ended);
  ~ShimWatch();
  ShimWatch(const ShimWatch&) = delete;
  ShimWatch& operator=(const ShimWatch&) = delete;

  // Until its shim ends; one that is not there has ended. Idempotent.
  void watch(const std::string& sandbox_id);

 private:
  struct Shim {
    Fd socket;
    EventLoop::Token token = 0;
  };
  ShimWatch(std::string run_dir, std::function<void(const std::string&)> ended, std::unique_ptr<EventLoop> loop)
      : run_dir_(std::move(run_dir)), ended_(std::move(ended)), loop_(std::move(loop)) {}
  void connect(const std::string& sandbox_id);
  void later(const std::string& sandbox_id);
  void gone(const std::string& sandbox_id);
  void ended(const std::string& sandbox_id);
  void remove_socket(const std::string& sandbox_id) const;

  const std::string run_dir_;
  const std::function<void(const std::string&)> ended_;
  std::unique_ptr<EventLoop> loop_;
  std::map<std::string, Shim> shims_;  // the loop's thread alone
  std::jthread thread_;
};

// For the audit: leases of such shims that have ended, and sockets that they left. A text for each.
std::vector<std::string> own_shim_differences(const std::string& run_dir, const std::vector<Lease>& leases);

}  // namespace granary::agent
