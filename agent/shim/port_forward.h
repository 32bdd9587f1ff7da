// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/shim/relayed_connection.h"
#include "vmpool/base/log.h"

namespace granary::shim {

// What programs of the pod's network namespace dial on its loopback, carried to the guest's: containerd's port-forward
// dials there. Only such connections reach it (netplumb/loopback_listener.h), never the guest or anybody on a network.
// Beyond kMaxConnections new ones wait, unaccepted, until others end. Belongs to the event loop's thread.
class PortForward {
 public:
  static constexpr size_t kMaxConnections = 128;

  // Errors of netplumb::open_netns() and listen_on_loopback().
  static Result<std::unique_ptr<PortForward>> open(EventLoop& loop, std::string guest_socket,
                                                   const std::string& netns_path);
  ~PortForward();
  PortForward(const PortForward&) = delete;
  PortForward& operator=(const PortForward&) = delete;

  [[nodiscard]] size_t connections() const { return connections_.size(); }

 private:
  PortForward(EventLoop& loop, std::string guest_socket, std::vector<Fd> listeners)
      : loop_(loop), guest_socket_(std::move(guest_socket)), listeners_(std::move(listeners)) {}
  Status listen();
  void pause();
  void accept_one(const Fd& listener);
  Status relay(Fd client);
  void on_ended(uint64_t id, const std::string& why);
  void note(const std::string& why);

  EventLoop& loop_;
  const std::string guest_socket_;
  std::vector<Fd> listeners_;
  std::vector<EventLoop::Token> watches_;  // empty: nothing is accepted
  EventLoop::Token pause_ = 0;
  uint64_t next_id_ = 1;
  std::map<uint64_t, std::unique_ptr<RelayedConnection>> connections_;
  LogLimit limit_;
};

struct Pod;
// A pod runs without it, too: nullptr without a network namespace, and when it cannot be had, which is logged.
std::unique_ptr<PortForward> forward_ports(EventLoop& loop, const Pod& pod);

}  // namespace granary::shim
