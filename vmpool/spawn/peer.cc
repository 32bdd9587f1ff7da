// SPDX-License-Identifier: Apache-2.0
#include "vmpool/spawn/peer.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include "vmpool/base/log.h"

namespace granary::spawn {

Peer::Peer(EventLoop& loop, uint64_t number, Fd socket, Handlers handlers)
    : loop_(loop), number_(number), socket_(std::move(socket)), handlers_(std::move(handlers)) {}

Peer::~Peer() { loop_.remove(token_); }

Status Peer::watch() {
  GRANARY_TRY(set_nonblocking(socket_.get()));
  token_ = GRANARY_TRY(loop_.add(socket_.get(), EPOLLIN, [this](uint32_t events) { on_ready(events); }));
  return ok();
}

void Peer::on_ready(uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush();
  if (!gone_ && (events & ~static_cast<uint32_t>(EPOLLOUT)) != 0) read_one();
}

void Peer::read_one() {
  Result<control::Message> message = control::receive(socket_.get(), 0);
  if (message) {
    handlers_.message(*this, std::move(*message));
    return;
  }
  const Error& error = message.error();
  if (error.is(Errc::kDeadlineExceeded)) return;
  if (error.is(Errc::kProtocolMalformed) || error.is(Errc::kProtocolVersion)) {
    // Message boundaries survive garbage, so the connection goes on. Request 0: the header cannot be trusted.
    log_line(LogLevel::kWarn, "refused a message client=%llu reason=%s", static_cast<unsigned long long>(number_),
             error.message().c_str());
    send_error(0, error);
    return;
  }
  leave();
}

void Peer::send_error(uint32_t request, const Error& error) {
  control::ErrorBody body{};
  body.category = error.code().category() == granary_category() ? 1 : 0;
  body.code = error.code().value();
  control::set_text(body.context, error.context());
  send(control::Type::kError, request, body);
}

void Peer::send_bytes(control::Type type, uint32_t request, std::span<const std::byte> body, std::span<const int> fds) {
  if (gone_) return;
  if (!queue_.empty()) return enqueue(type, request, body, fds);
  const Status sent = control::send_bytes(socket_.get(), type, request, body, fds);
  if (sent) return;
  if (!sent.error().is_errno(EAGAIN)) return leave();
  enqueue(type, request, body, fds);
}

void Peer::enqueue(control::Type type, uint32_t request, std::span<const std::byte> body, std::span<const int> fds) {
  if (queue_.size() >= kQueueLimit) {
    log_line(LogLevel::kWarn, "cut off a client that does not read client=%llu queued=%zu",
             static_cast<unsigned long long>(number_), queue_.size());
    return leave();
  }
  Outgoing message{type, request, {body.begin(), body.end()}, {}};
  for (const int fd : fds) {
    Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    // An answer without its descriptors would be a lie; the client learns from the closed connection.
    if (!copy.valid()) return leave();
    message.fds.push_back(std::move(copy));
  }
  queue_.push_back(std::move(message));
  if (queue_.size() == 1 && !loop_.modify(token_, EPOLLIN | EPOLLOUT)) leave();
}

void Peer::flush() {
  while (!queue_.empty()) {
    const Outgoing& next = queue_.front();
    std::vector<int> fds;
    for (const Fd& fd : next.fds) fds.push_back(fd.get());
    const Status sent = control::send_bytes(socket_.get(), next.type, next.request, next.body, fds);
    if (!sent && sent.error().is_errno(EAGAIN)) return;
    if (!sent) return leave();
    queue_.pop_front();
  }
  if (!loop_.modify(token_, EPOLLIN)) leave();
}

void Peer::leave() {
  if (gone_) return;
  gone_ = true;
  loop_.remove(token_);
  queue_.clear();
  handlers_.gone(*this);
}

}  // namespace granary::spawn
