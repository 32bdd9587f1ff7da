// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/event_loop.h"

namespace granary::spawn {

// One client's connection on the control socket. What it does not read at once is queued, up to kQueueLimit messages: a
// client that never reads is cut off instead of stalling the spawner or filling its memory. A peer that is gone ignores
// every send.
class Peer {
 public:
  static constexpr size_t kQueueLimit = 8192;

  struct Handlers {
    std::function<void(Peer&, control::Message)> message;
    std::function<void(Peer&)> gone;  // the owner destroys it, not before this call has returned
  };

  Peer(EventLoop& loop, uint64_t number, Fd socket, Handlers handlers);
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // Starts reading; call once.
  Status watch();
  [[nodiscard]] uint64_t number() const { return number_; }

  template <class Body>
  void send(control::Type type, uint32_t request, const Body& body, std::span<const int> fds = {}) {
    send_bytes(type, request, std::as_bytes(std::span(&body, 1)), fds);
  }
  void send_done(uint32_t request) { send(control::Type::kDone, request, control::Empty{}); }
  void send_error(uint32_t request, const Error& error);

 private:
  struct Outgoing {
    control::Type type;
    uint32_t request;
    std::vector<std::byte> body;
    std::vector<Fd> fds;
  };

  void on_ready(uint32_t events);
  void read_one();
  void flush();
  void send_bytes(control::Type type, uint32_t request, std::span<const std::byte> body, std::span<const int> fds);
  void enqueue(control::Type type, uint32_t request, std::span<const std::byte> body, std::span<const int> fds);
  void leave();

  EventLoop& loop_;
  uint64_t number_;
  Fd socket_;
  Handlers handlers_;
  EventLoop::Token token_ = 0;
  std::deque<Outgoing> queue_;
  bool gone_ = false;
};

}  // namespace granary::spawn
