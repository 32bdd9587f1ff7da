// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/fuse_channel.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

namespace granary::fs {
namespace {

// Per turn of the loop, so that exports are changed under load, too.
constexpr int kMaxMessages = 64;
constexpr size_t kPadding = 8;
// Buffers that a large message made large are given back at once.
constexpr size_t kKeptBytes = 160 * 1024;

}  // namespace

Result<std::unique_ptr<FuseChannel>> FuseChannel::create(EventLoop& loop, Fd socket, Handlers handlers) {
  GRANARY_TRY(set_nonblocking(socket.get()));
  std::unique_ptr<FuseChannel> channel(new FuseChannel(loop, std::move(socket), std::move(handlers)));
  FuseChannel* self = channel.get();
  channel->token_ = GRANARY_TRY(loop.add(channel->socket_.get(), EPOLLIN, [self](uint32_t) { self->ready(); }));
  return channel;
}

FuseChannel::~FuseChannel() { loop_.remove(token_); }

void FuseChannel::ready() {
  if (!flush()) return;
  for (int i = 0; i < kMaxMessages && !gone_ && out_.empty() && read_message(); ++i) {
    const size_t bytes = std::exchange(in_bytes_, 0);
    handlers_.message(std::span(in_).first(bytes));
    if (in_.size() > kKeptBytes) std::vector<std::byte>().swap(in_);
  }
}

// True: nothing waits to be sent.
bool FuseChannel::flush() {
  while (out_sent_ < out_.size()) {
    const ssize_t n =
        ::send(socket_.get(), out_.data() + out_sent_, out_.size() - out_sent_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) {
      if (errno != EAGAIN) leave("it cannot be written to");
      return false;
    }
    out_sent_ += static_cast<size_t>(n);
  }
  if (out_.empty()) return true;
  std::vector<std::byte>().swap(out_);
  out_sent_ = 0;
  (void)loop_.modify(token_, EPOLLIN);
  return true;
}

void FuseChannel::send(std::span<iovec> parts) {
  if (gone_) return;
  size_t sent = 0;
  if (out_.empty()) {
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    const ssize_t n = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) return leave("it cannot be written to");
    sent = n > 0 ? static_cast<size_t>(n) : 0;
  }
  const bool waited = !out_.empty();
  for (const iovec& part : parts) {
    const size_t skipped = std::min(sent, part.iov_len);
    sent -= skipped;
    const auto* bytes = static_cast<const std::byte*>(part.iov_base);
    out_.insert(out_.end(), bytes + skipped, bytes + part.iov_len);
  }
  if (!waited && !out_.empty()) (void)loop_.modify(token_, EPOLLOUT);
}

void FuseChannel::send_error(uint64_t unique, int error) {
  fuse_out_header header{.len = sizeof(header), .error = -error, .unique = unique};
  iovec part{&header, sizeof(header)};
  send({&part, 1});
}

// True: a whole message is in in_.
bool FuseChannel::read_message() {
  if (in_bytes_ < sizeof(fuse_in_header) && !read_up_to(sizeof(fuse_in_header))) return false;
  fuse_in_header header{};
  std::memcpy(&header, in_.data(), sizeof(header));
  if (header.len < sizeof(header) || header.len > kMaxMessageBytes) {
    leave("it sent a message of an impossible length");
    return false;
  }
  if (!read_up_to(header.len)) return false;
  std::fill_n(in_.begin() + header.len, kPadding, std::byte{});
  return true;
}

bool FuseChannel::read_up_to(size_t bytes) {
  if (in_.size() < bytes + kPadding) in_.resize(bytes + kPadding);
  while (in_bytes_ < bytes) {
    const ssize_t n = ::recv(socket_.get(), in_.data() + in_bytes_, bytes - in_bytes_, MSG_DONTWAIT);
    if (n <= 0) {
      if (n == 0 || errno != EAGAIN) leave("it closed its socket");
      return false;
    }
    in_bytes_ += static_cast<size_t>(n);
  }
  return true;
}

void FuseChannel::leave(const char* why) {
  if (std::exchange(gone_, true)) return;
  loop_.remove(token_);
  handlers_.gone(why);
}

}  // namespace granary::fs
