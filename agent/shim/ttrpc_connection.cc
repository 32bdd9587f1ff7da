// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/ttrpc_connection.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

namespace granary::ttrpc {
namespace {

constexpr size_t kChunkBytes = 16 * 1024;

// Descriptors that came with a message; those beyond the first two were cut off by the kernel.
void take_rights(msghdr& message, std::deque<Fd>& to) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      to.emplace_back(fd);
    }
  }
}

}  // namespace

Result<std::unique_ptr<Connection>> Connection::create(EventLoop& loop, Fd socket, Handlers handlers) {
  GRANARY_TRY(set_nonblocking(socket.get()));
  std::unique_ptr<Connection> connection(new Connection(loop, std::move(socket), std::move(handlers)));
  Connection* self = connection.get();
  self->watched_ = EPOLLIN;
  self->token_ =
      GRANARY_TRY(loop.add(self->socket_.get(), EPOLLIN, [self](uint32_t events) { self->on_events(events); }));
  return connection;
}

Connection::~Connection() { loop_.remove(token_); }

void Connection::on_events(uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush();
  if (!closed_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read_some();
  watch_again();
}

void Connection::read_some() {
  std::array<char, kChunkBytes> chunk;
  iovec part{.iov_base = chunk.data(), .iov_len = chunk.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(2 * sizeof(int))> control;
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t n = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0 && errno != ECONNRESET) return close(Error::last_os_error("read from a ttrpc connection"));
  if (n <= 0) {
    if (parser_.incomplete()) return close({Errc::kProtocolMalformed, "a ttrpc stream ends in the middle of a frame"});
    return close({Errc::kPeerGone, "the peer closed its ttrpc connection"});
  }
  take_rights(message, fds_);
  if (fds_.size() > kMaxWaitingFds) return close({Errc::kProtocolMalformed, "descriptors that nobody asked for"});
  parser_.feed({chunk.data(), static_cast<size_t>(n)});
  hand_out();
}

void Connection::hand_out() {
  while (!closed_) {
    Result<std::optional<Frame>> frame = parser_.next();
    if (!frame) return close(frame.error());
    if (!*frame) return;
    handlers_.frame(**std::move(frame));
  }
}

void Connection::send(std::string bytes, int fd) {
  if (closed_) return;
  Fd with;
  if (fd >= 0) {
    with = Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!with.valid()) return close(Error::last_os_error("duplicate a descriptor for a ttrpc peer"));
  }
  queued_bytes_ += bytes.size();
  queue_.push_back({std::move(bytes), 0, std::move(with)});
  flush();
  if (!closed_ && queued_bytes_ > kLimitBytes) {
    return close({Errc::kPeerGone, "the peer does not read its ttrpc connection"});
  }
  watch_again();
}

ssize_t Connection::send_piece(const Outgoing& piece) const {
  iovec part{.iov_base = const_cast<char*>(piece.bytes.data() + piece.sent),
             .iov_len = piece.bytes.size() - piece.sent};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (piece.fd.valid() && piece.sent == 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = piece.fd.get();
    std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  }
  return ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
}

void Connection::flush() {
  while (!queue_.empty()) {
    Outgoing& piece = queue_.front();
    const ssize_t n = send_piece(piece);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    // Reading tells that the peer has gone, and what it still said.
    if (n < 0) {
      queue_.clear();
      queued_bytes_ = 0;
      return;
    }
    piece.sent += static_cast<size_t>(n);
    queued_bytes_ -= static_cast<size_t>(n);
    if (piece.sent == piece.bytes.size()) queue_.pop_front();
  }
}

Fd Connection::take_fd() {
  if (fds_.empty()) return {};
  Fd fd = std::move(fds_.front());
  fds_.pop_front();
  return fd;
}

void Connection::watch_again() {
  if (closed_) return;
  const uint32_t wanted = (queued_bytes_ < kPauseBytes ? EPOLLIN : 0U) | (queue_.empty() ? 0U : EPOLLOUT);
  if (wanted == watched_) return;
  watched_ = wanted;
  (void)loop_.modify(token_, wanted);
}

void Connection::close(const Error& why) {
  if (closed_) return;
  closed_ = true;
  loop_.remove(token_);
  handlers_.closed(why);
}

}  // namespace granary::ttrpc
