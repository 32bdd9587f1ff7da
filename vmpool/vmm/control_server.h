// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/event_loop.h"
#include "vmpool/vmm/request.h"

namespace granary::vmm {

// The VMM's end of its control socket: takes requests one at a time, answers each once, sends events. What is no valid
// request is answered with kError and counted; it never ends the VM. Only the loss of the last descriptor of the other
// end does.
//
// The loop never blocks: while the peer does not read its answers, no further request is read; an event that does not
// fit is dropped (the status page holds what events say). Loop thread only.
class ControlServer {
 public:
  using Clock = std::chrono::steady_clock;
  struct Callbacks {
    std::function<VmPhase()> phase;
    // Must call answer() or fail() with this id exactly once, now. `received`: when the socket became readable.
    std::function<void(uint32_t id, Clock::time_point received, Request& request)> request;
    // Nobody holds the other end any more.
    std::function<void()> gone;
  };
  // Starts to serve `socket`, which becomes non-blocking.
  static Result<std::unique_ptr<ControlServer>> create(EventLoop& loop, Fd socket, Callbacks callbacks);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  template <class Body>
  void answer(uint32_t id, control::Type type, const Body& body) {
    queue_answer([this, id, type, body] { return control::send(socket_.get(), type, id, body); });
  }
  void done(uint32_t id) { answer(id, control::Type::kDone, control::Empty{}); }
  void fail(uint32_t id, const Error& error);
  template <class Body>
  void event(control::Type type, const Body& body) {
    if (!control::send(socket_.get(), type, 0, body)) ++dropped_events_;
  }

  [[nodiscard]] uint64_t malformed() const { return malformed_; }
  [[nodiscard]] uint64_t dropped_events() const { return dropped_events_; }

 private:
  ControlServer(EventLoop& loop, Fd socket, Callbacks callbacks)
      : loop_(loop), socket_(std::move(socket)), callbacks_(std::move(callbacks)) {}
  void on_events(uint32_t events);
  void read_one();
  void refuse(uint32_t id, const Error& error);
  void queue_answer(std::function<Status()> send);
  [[nodiscard]] bool hung_up() const;
  void leave();

  EventLoop& loop_;
  Fd socket_;
  Callbacks callbacks_;
  EventLoop::Token token_ = 0;
  std::function<Status()> unsent_;  // the answer that did not fit
  uint64_t malformed_ = 0;
  uint64_t dropped_events_ = 0;
};

}  // namespace granary::vmm
