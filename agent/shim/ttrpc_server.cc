// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/ttrpc_server.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "containerd/ttrpc.pb.h"
#include "vmpool/base/log.h"

namespace granary::ttrpc {
namespace {

using shim::Rpc;
using shim::rpc_error;

bool peer_allowed(const Fd& socket) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == 0 || peer.uid == ::geteuid();
}

}  // namespace

Result<Fd> listen_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return Error(Errc::kInvalidArgument, "socket path of " + std::to_string(path.size()) + " bytes, at most " +
                                             std::to_string(sizeof(address.sun_path) - 1) + ": " + path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return Error::last_os_error("socket");
  // On the socket itself: the mode of what bind(2) makes, so there is no moment in which others may connect.
  ::fchmod(socket.get(), 0600);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Error::last_os_error("bind " + path);
  }
  if (::listen(socket.get(), SOMAXCONN) != 0) return Error::last_os_error("listen at " + path);
  return socket;
}

Result<std::unique_ptr<Server>> Server::create(EventLoop& loop, Fd listener, Handler handler, size_t most_connections) {
  GRANARY_TRY(set_nonblocking(listener.get()));
  std::unique_ptr<Server> server(new Server(loop, std::move(listener), std::move(handler), most_connections));
  server->reserve_ = GRANARY_TRY(open_file("/dev/null", O_RDONLY));
  Server* self = server.get();
  self->token_ = GRANARY_TRY(loop.add(self->listener_.get(), EPOLLIN, [self](uint32_t) { self->accept_one(); }));
  return server;
}

Server::~Server() {
  loop_.remove(token_);
  for (const auto& [number, session] : sessions_) {
    for (const auto& [stream, timer] : session.open) loop_.remove(timer);
  }
}

size_t Server::open_calls() const {
  size_t count = 0;
  for (const auto& [number, session] : sessions_) count += session.open.size();
  return count;
}

void Server::accept_one() {
  Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.valid()) {
    if (errno == EMFILE || errno == ENFILE) shed_one();
    return;
  }
  if (sessions_.size() >= most_connections_ || !peer_allowed(socket)) {
    log_line(LogLevel::kWarn, "ttrpc: turned away a client: %s",
             sessions_.size() >= most_connections_ ? "too many connections" : "it runs as another user");
    return;
  }
  add(std::move(socket));
}

// Without this the level-triggered listener would spin until a descriptor becomes free.
void Server::shed_one() {
  log_line(LogLevel::kError, "ttrpc: out of file descriptors, a client was turned away");
  reserve_.reset();
  Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
  reserve_ = Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

void Server::add(Fd socket) {
  const uint64_t number = next_number_++;
  auto connection = Connection::create(loop_, std::move(socket),
                                       {.frame = [this, number](Frame frame) { on_frame(number, std::move(frame)); },
                                        .closed =
                                            [this, number](const Error& why) {
                                              if (!why.is(Errc::kPeerGone)) {
                                                log_line(LogLevel::kWarn, "ttrpc: %s", why.message().c_str());
                                              }
                                              drop(number);
                                            }});
  if (!connection) return log_line(LogLevel::kError, "ttrpc: %s", connection.error().message().c_str());
  sessions_[number].connection = *std::move(connection);
}

void Server::drop(uint64_t number) {
  Session& session = sessions_.at(number);
  session.closed = true;
  for (const auto& [stream, timer] : session.open) loop_.remove(timer);
  session.open.clear();
  // Later: the connection is in one of its own methods now.
  loop_.post([weak = std::weak_ptr(self_), number] {
    if (const auto server = weak.lock()) (*server)->sessions_.erase(number);
  });
}

void Server::on_frame(uint64_t number, Frame frame) {
  Session& session = sessions_.at(number);
  if (frame.type != static_cast<uint8_t>(FrameType::kRequest)) {
    if (frame.type == static_cast<uint8_t>(FrameType::kData)) {
      send(session, frame.stream, rpc_error(Rpc::kInvalidArgument, "no stream of data is open: all calls are unary"));
    }
    return;
  }
  if (frame.too_long_bytes > 0) {
    return send(session, frame.stream,
                rpc_error(Rpc::kResourceExhausted, "a message of " + std::to_string(frame.too_long_bytes) +
                                                       " bytes; at most " + std::to_string(kMaxDataBytes)));
  }
  if (frame.stream % 2 != 1 || frame.stream <= session.last_stream) {
    return send(session, frame.stream,
                rpc_error(Rpc::kInvalidArgument, "stream number " + std::to_string(frame.stream) +
                                                     ": it must be odd, and higher than every one before"));
  }
  session.last_stream = frame.stream;
  if (session.open.size() >= kMaxOpenCalls) {
    return send(session, frame.stream,
                rpc_error(Rpc::kResourceExhausted, std::to_string(kMaxOpenCalls) + " calls are open already"));
  }
  start(number, session, frame.stream, frame.data);
}

void Server::start(uint64_t number, Session& session, uint32_t stream, const std::string& data) {
  ::ttrpc::Request request;
  if (!request.ParseFromString(data)) {
    return send(session, stream, rpc_error(Rpc::kInvalidArgument, "the request is no ttrpc request"));
  }
  EventLoop::Token timer = 0;
  if (request.timeout_nano() > 0) {
    // A century is as good as no limit, and does not overflow.
    const auto limit = std::chrono::nanoseconds(std::min(request.timeout_nano(), int64_t{3'000'000'000'000'000'000}));
    timer = loop_.call_at(EventLoop::Clock::now() + limit, [this, number, stream] {
      answer(number, stream, rpc_error(Rpc::kDeadlineExceeded, "the call's own timeout"));
    });
  }
  session.open.emplace(stream, timer);
  Call call{.service = std::move(*request.mutable_service()),
            .method = std::move(*request.mutable_method()),
            .payload = std::move(*request.mutable_payload()),
            .metadata = {},
            .take_fd = [connection = session.connection.get()] { return connection->take_fd(); },
            .timeout = std::chrono::nanoseconds(std::max(request.timeout_nano(), int64_t{0}))};
  for (::ttrpc::KeyValue& entry : *request.mutable_metadata())
    call.metadata[entry.key()] = std::move(*entry.mutable_value());
  handler_(std::move(call), [weak = std::weak_ptr(self_), number, stream](const Result<std::string>& result) {
    if (const auto server = weak.lock()) (*server)->answer(number, stream, result);
  });
}

void Server::answer(uint64_t number, uint32_t stream, const Result<std::string>& result) {
  const auto session = sessions_.find(number);
  if (session == sessions_.end()) return;
  const auto open = session->second.open.find(stream);
  if (open == session->second.open.end()) return;
  if (open->second != 0) loop_.remove(open->second);
  session->second.open.erase(open);
  send(session->second, stream, result);
}

void Server::send(Session& session, uint32_t stream, const Result<std::string>& result) {
  if (session.closed) return;
  ::ttrpc::Response response;
  if (result) {
    response.set_payload(*result);
  } else {
    const shim::RpcStatus status = shim::to_rpc(result.error());
    response.mutable_status()->set_code(static_cast<int32_t>(status.code));
    response.mutable_status()->set_message(status.message);
  }
  Result<std::string> frame = encode(FrameType::kResponse, stream, response.SerializeAsString());
  if (!frame) return send(session, stream, rpc_error(Rpc::kResourceExhausted, frame.error().message()));
  session.connection->send(*std::move(frame));
}

}  // namespace granary::ttrpc
