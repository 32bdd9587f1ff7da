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

// A connected unix stream socket, non-blocking. The errno of connect(2): ENOENT and ECONNREFUSED when nobody listens.
// kInvalidArgument: the path is empty or too long.
Result<Fd> connect_unix(const std::string& path);

// A ttrpc client on an event loop. It connects with the first call, and again with the next one after the server has
// gone.
class Client {
 public:
  // The serialized response, or: the status that the server gave (shim::rpc_category()), kDeadlineExceeded, kPeerGone.
  using Done = std::function<void(Result<std::string>)>;
  static constexpr size_t kMaxOpenCalls = 256;

  // `path`: of a unix stream socket.
  Client(EventLoop& loop, std::string path) : loop_(loop), path_(std::move(path)) {}
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // `done` is called once, from the loop, never from within this call. `fd` is borrowed and goes with the request (-1:
  // none).
  void call(const std::string& service, const std::string& method, const std::string& payload,
            std::chrono::milliseconds timeout, Done done, int fd = -1);

 private:
  struct Open {
    Done done;
    EventLoop::Token timer;
  };
  Status connect();
  void fail_later(Done done, Error why);
  void on_frame(const Frame& frame);
  void on_closed(const Error& why);
  void finish(uint32_t stream, Result<std::string> result);

  EventLoop& loop_;
  std::string path_;
  std::unique_ptr<Connection> connection_;
  uint32_t next_stream_ = 1;
  std::map<uint32_t, Open> open_;
};

}  // namespace granary::ttrpc
