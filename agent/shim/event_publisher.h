// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <google/protobuf/message_lite.h>

#include <deque>
#include <string>

#include "agent/shim/ttrpc_client.h"

namespace granary::shim {

// Tells containerd what happens to tasks (service containerd.services.events.ttrpc.v1.Events), one event after another,
// so that they arrive in the order in which they were published. A containerd that restarts gets them afterwards: an
// event is tried again every second, the newest kKept are kept.
class EventPublisher {
 public:
  static constexpr size_t kKept = 1024;
  static constexpr std::chrono::seconds kRetry{1};

  // `socket_path` empty: there is nobody to tell.
  EventPublisher(EventLoop& loop, std::string socket_path)
      : loop_(loop), client_(loop, socket_path), has_reader_(!socket_path.empty()) {}
  ~EventPublisher();

  // Its topic and type are those of containerd's message of that name ("TaskExit": "/tasks/exit",
  // containerd.events.TaskExit).
  void publish(const std::string& containerd_namespace, const google::protobuf::MessageLite& event);
  [[nodiscard]] size_t unsent() const { return queue_.size(); }

 private:
  void send_next();

  EventLoop& loop_;
  ttrpc::Client client_;
  const bool has_reader_;
  std::deque<std::string> queue_;  // serialized ForwardRequests
  EventLoop::Token timer_ = 0;
  bool sending_ = false;
};

}  // namespace granary::shim
