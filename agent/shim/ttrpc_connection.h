// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "agent/shim/ttrpc_frame.h"
#include "vmpool/base/event_loop.h"

namespace granary::ttrpc {

// One end of a ttrpc connection over a unix stream socket, on an event loop. A peer that does not read what it is sent
// is first not listened to (from kPauseBytes on) and then cut off (from kLimitBytes on), so that nobody fills this
// process's memory. Descriptors may come with a frame (SCM_RIGHTS): Granary's own extension, between the shim and the
// agent.
class Connection {
 public:
  static constexpr size_t kPauseBytes = 1 << 20;
  static constexpr size_t kLimitBytes = 16 << 20;
  static constexpr size_t kMaxWaitingFds = 8;

  struct Handlers {
    std::function<void(Frame frame)> frame;
    // Once, as the last call: the peer has gone, or broke the protocol. The owner destroys it, not before this has
    // returned.
    std::function<void(const Error& why)> closed;
  };

  static Result<std::unique_ptr<Connection>> create(EventLoop& loop, Fd socket, Handlers handlers);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Queues what the socket does not take at once; ignored once closed. `fd` (-1: none) is borrowed and goes with its
  // first byte.
  void send(std::string bytes, int fd = -1);
  // The oldest descriptor that came and was not taken; invalid: none.
  Fd take_fd();

 private:
  struct Outgoing {
    std::string bytes;
    size_t sent = 0;
    Fd fd;
  };
  Connection(EventLoop& loop, Fd socket, Handlers handlers)
      : loop_(loop), socket_(std::move(socket)), handlers_(std::move(handlers)) {}
  void on_events(uint32_t events);
  void read_some();
  void hand_out();
  void flush();
  ssize_t send_piece(const Outgoing& piece) const;
  void close(const Error& why);
  void watch_again();

  EventLoop& loop_;
  Fd socket_;
  Handlers handlers_;
  EventLoop::Token token_ = 0;
  uint32_t watched_ = 0;
  FrameParser parser_;
  std::deque<Outgoing> queue_;
  size_t queued_bytes_ = 0;
  std::deque<Fd> fds_;
  bool closed_ = false;
};

}  // namespace granary::ttrpc
