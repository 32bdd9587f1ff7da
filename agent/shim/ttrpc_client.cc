// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/ttrpc_client.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

#include "containerd/ttrpc.pb.h"

namespace granary::ttrpc {
namespace {

Result<std::string> result_of(const Frame& frame) {
  ::ttrpc::Response response;
  if (frame.too_long_bytes > 0 || !response.ParseFromString(frame.data)) {
    return Error(Errc::kProtocolMalformed, "the server's answer is no ttrpc response");
  }
  if (response.status().code() == 0) return std::move(*response.mutable_payload());
  return shim::rpc_error(static_cast<shim::Rpc>(response.status().code()), response.status().message());
}

}  // namespace

Result<Fd> connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return Error(Errc::kInvalidArgument, "socket path of " + std::to_string(path.size()) + " bytes, 1 to " +
                                             std::to_string(sizeof(address.sun_path) - 1) + " are possible: " + path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return Error::last_os_error("socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Error::last_os_error("connect to " + path);
  }
  return socket;
}

Client::~Client() {
  for (const auto& [stream, open] : open_) loop_.remove(open.timer);
}

Status Client::connect() {
  Result<Fd> socket = connect_unix(path_);
  if (!socket && !socket.error().is(Errc::kInvalidArgument)) return Error(Errc::kPeerGone, socket.error().message());
  if (!socket) return socket.error();
  connection_ = GRANARY_TRY(Connection::create(loop_, *std::move(socket),
                                               {.frame = [this](const Frame& frame) { on_frame(frame); },
                                                .closed = [this](const Error& why) { on_closed(why); }}));
  next_stream_ = 1;
  return ok();
}

void Client::fail_later(Done done, Error why) {
  loop_.post([done = std::move(done), why = std::move(why)] { done(why); });
}

void Client::call(const std::string& service, const std::string& method, const std::string& payload,
                  std::chrono::milliseconds timeout, Done done, int fd) {
  if (open_.size() >= kMaxOpenCalls) {
    return fail_later(std::move(done), {Errc::kPeerGone, path_ + " does not answer: too many calls are open"});
  }
  if (!connection_) {
    if (const Status connected = connect(); !connected) return fail_later(std::move(done), connected.error());
  }
  ::ttrpc::Request request;
  request.set_service(service);
  request.set_method(method);
  request.set_payload(payload);
  request.set_timeout_nano(std::chrono::nanoseconds(timeout).count());
  const uint32_t stream = next_stream_;
  Result<std::string> frame = encode(FrameType::kRequest, stream, request.SerializeAsString());
  if (!frame) return fail_later(std::move(done), frame.error());
  next_stream_ += 2;
  const EventLoop::Token timer = loop_.call_at(EventLoop::Clock::now() + timeout, [this, stream, method] {
    finish(stream, Error(Errc::kDeadlineExceeded, method + " at " + path_));
  });
  open_.emplace(stream, Open{std::move(done), timer});
  connection_->send(*std::move(frame), fd);
}

void Client::on_frame(const Frame& frame) {
  if (frame.type == static_cast<uint8_t>(FrameType::kResponse)) finish(frame.stream, result_of(frame));
}

void Client::finish(uint32_t stream, Result<std::string> result) {
  const auto open = open_.find(stream);
  if (open == open_.end()) return;
  loop_.remove(open->second.timer);
  const Done done = std::move(open->second.done);
  open_.erase(open);
  done(std::move(result));
}

void Client::on_closed(const Error& why) {
  // Later: the connection is in one of its own methods now, and a callback may call again.
  loop_.post([connection = std::shared_ptr<Connection>(std::move(connection_))] {});
  std::map<uint32_t, Open> open;
  open.swap(open_);
  for (auto& [stream, call] : open) {
    loop_.remove(call.timer);
    fail_later(std::move(call.done), {Errc::kPeerGone, path_ + ": " + why.message()});
  }
}

}  // namespace granary::ttrpc
