// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/shim/rpc_status.h"
#include "agent/shim/ttrpc_connection.h"

namespace granary::ttrpc {

// One request. `payload` is the serialized message of the method.
struct Call {
  std::string service;  // with its package
  std::string method;
  std::string payload;
  std::map<std::string, std::string> metadata;
  std::function<Fd()> take_fd;         // the next descriptor that came over the connection; only while the handler runs
  std::chrono::nanoseconds timeout{};  // the caller's own; 0: none
};
// Answers a call: the serialized response, or why not (shim::to_rpc()). At most once counts; too late, or to a caller
// that has gone, is fine.
using Answer = std::function<void(Result<std::string>)>;
using Handler = std::function<void(Call call, Answer answer)>;

// A ttrpc server on an event loop: any number of calls of one connection are open at once, each is answered when its
// handler does, or with DEADLINE_EXCEEDED when its own timeout runs out first. Hostile bytes: a frame of unknown type
// is ignored, as newer peers may know more; a request that is too long, whose stream number is even or not growing, or
// that does not parse is answered with an error; a frame that cannot be true ends its connection.
class Server {
 public:
  static constexpr size_t kMaxConnections = 320;  // containerd 1.6 and 1.7 have one per container
  static constexpr size_t kMaxOpenCalls = 1024;   // of a connection; RESOURCE_EXHAUSTED beyond

  // `listener` is a listening unix stream socket. Only peers with uid 0 or this process's own are served, and at most
  // `most_connections` at once.
  static Result<std::unique_ptr<Server>> create(EventLoop& loop, Fd listener, Handler handler,
                                                size_t most_connections = kMaxConnections);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Of all connections: received and not yet answered.
  [[nodiscard]] size_t open_calls() const;
  [[nodiscard]] size_t connections() const { return sessions_.size(); }

 private:
  struct Session {
    std::unique_ptr<Connection> connection;
    uint32_t last_stream = 0;
    std::map<uint32_t, EventLoop::Token> open;  // stream -> its deadline's timer, or 0
    bool closed = false;
  };
  Server(EventLoop& loop, Fd listener, Handler handler, size_t most_connections)
      : loop_(loop),
        listener_(std::move(listener)),
        handler_(std::move(handler)),
        most_connections_(most_connections) {}
  void accept_one();
  void shed_one();
  void add(Fd socket);
  void drop(uint64_t number);
  void on_frame(uint64_t number, Frame frame);
  void start(uint64_t number, Session& session, uint32_t stream, const std::string& data);
  void answer(uint64_t number, uint32_t stream, const Result<std::string>& result);
  static void send(Session& session, uint32_t stream, const Result<std::string>& result);

  EventLoop& loop_;
  Fd listener_;
  Handler handler_;
  const size_t most_connections_;
  Fd reserve_;  // given up for a moment when descriptors run out, to accept and close a connection
  EventLoop::Token token_ = 0;
  uint64_t next_number_ = 1;
  std::map<uint64_t, Session> sessions_;
  std::shared_ptr<Server*> self_ = std::make_shared<Server*>(this);  // of which answers hold weak copies
};

// Makes a listening unix stream socket at `path` (mode 0600), where nothing is yet. kInvalidArgument: the path is too
// long.
Result<Fd> listen_unix(const std::string& path);

}  // namespace granary::ttrpc
