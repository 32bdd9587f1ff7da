// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/event_loop.h"

namespace granary::fs {

// The other end of ExportClient: answers requests of the control protocol on a connected socket and on all that a
// listening one accepts (of uid 0 or our own). Whoever sends garbage gets an error, whoever does not read its answers
// is cut off; neither disturbs anybody else. One thread.
class ExportServer {
 public:
  static constexpr size_t kMaxConnections = 16;
  struct Handlers {
    std::function<Status(const std::string& name, Fd fd, bool read_only)> add;
    std::function<Status(const std::string& name)> remove;
  };
  ExportServer(EventLoop& loop, Handlers handlers) : loop_(loop), handlers_(std::move(handlers)) {}
  ~ExportServer();
  ExportServer(const ExportServer&) = delete;
  ExportServer& operator=(const ExportServer&) = delete;

  Status listen(Fd listener);
  Status serve(Fd connection);
  [[nodiscard]] size_t connections() const { return connections_.size(); }

 private:
  struct Connection {
    Fd socket;
    EventLoop::Token token = 0;
  };
  void accept_one();
  void read_one(uint64_t number);
  Status answer(int socket, control::Message message);
  Status add(control::Message& message);
  Status remove(const control::Message& message);
  void leave(uint64_t number);

  EventLoop& loop_;
  Handlers handlers_;
  Fd listener_;
  EventLoop::Token listener_token_ = 0;
  uint64_t next_ = 1;
  std::map<uint64_t, Connection> connections_;
};

}  // namespace granary::fs
