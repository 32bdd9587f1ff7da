// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/export_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmpool/base/log.h"

namespace granary::fs {
namespace {

using control::Type;

bool peer_allowed(const Fd& socket) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == 0 || peer.uid == ::geteuid();
}

}  // namespace

ExportServer::~ExportServer() {
  loop_.remove(listener_token_);
  for (const auto& [number, connection] : connections_) loop_.remove(connection.token);
}

Status ExportServer::listen(Fd listener) {
  GRANARY_TRY(set_nonblocking(listener.get()));
  listener_token_ = GRANARY_TRY(loop_.add(listener.get(), EPOLLIN, [this](uint32_t) { accept_one(); }));
  listener_ = std::move(listener);
  return ok();
}

Status ExportServer::serve(Fd connection) {
  GRANARY_TRY(set_nonblocking(connection.get()));
  const uint64_t number = next_++;
  const EventLoop::Token token =
      GRANARY_TRY(loop_.add(connection.get(), EPOLLIN, [this, number](uint32_t) { read_one(number); }));
  connections_.emplace(number, Connection{std::move(connection), token});
  return ok();
}

void ExportServer::accept_one() {
  Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.valid() || !peer_allowed(socket)) return;
  if (connections_.size() >= kMaxConnections) {
    log_line(LogLevel::kWarn, "an export client too many was turned away; at most %zu at a time", kMaxConnections);
    return;
  }
  if (const Status served = serve(std::move(socket)); !served) {
    log_line(LogLevel::kError, "serve an export client: %s", served.error().message().c_str());
  }
}

void ExportServer::read_one(uint64_t number) {
  const int socket = connections_.at(number).socket.get();
  Result<RawMessage> raw = receive_message(socket, 0);
  if (!raw) {
    const Error& error = raw.error();
    if (error.is(Errc::kDeadlineExceeded) || error.is_errno(EAGAIN)) return;
    if (!error.is(Errc::kProtocolMalformed) || !control::send_error(socket, 0, error)) leave(number);
    return;
  }
  Result<control::Message> message = control::parse(*std::move(raw));
  // One that cannot be told which of its requests it was is out of step.
  const Status answered =
      message ? answer(socket, *std::move(message)) : control::send_error(socket, 0, message.error());
  if (!answered) leave(number);
}

Status ExportServer::answer(int socket, control::Message message) {
  Status done =
      Error(Errc::kProtocolMalformed, "control message type " + std::to_string(static_cast<int>(message.type)) +
                                          " is no request to a file server");
  if (message.type == Type::kAddExport) done = add(message);
  if (message.type == Type::kRemoveExport) done = remove(message);
  return done ? control::send_done(socket, message.request)
              : control::send_error(socket, message.request, done.error());
}

Status ExportServer::add(control::Message& message) {
  const auto body = GRANARY_TRY(message.as<control::AddExport>(1));
  if (body.read_only > 1) {
    return Error(Errc::kInvalidArgument, "read_only is " + std::to_string(body.read_only) + "; give 0 or 1");
  }
  return handlers_.add(control::text_of(body.name), std::move(message.fds[0]), body.read_only == 1);
}

Status ExportServer::remove(const control::Message& message) {
  const auto body = GRANARY_TRY(message.as<control::ExportRef>());
  return handlers_.remove(control::text_of(body.name));
}

void ExportServer::leave(uint64_t number) {
  loop_.remove(connections_.at(number).token);
  connections_.erase(number);
}

}  // namespace granary::fs
