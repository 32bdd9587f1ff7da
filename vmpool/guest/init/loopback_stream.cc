// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/loopback_stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "vmpool/guest/frame.h"
#include "vmpool/guest/init/failure.h"

namespace granary::guest {
namespace {

constexpr uint32_t kHighestPort = 65535;

std::string name_of(bool v6, uint16_t port) { return (v6 ? "[::1]:" : "127.0.0.1:") + std::to_string(port); }

int connect_to(int socket, bool v6, uint16_t port) {
  if (v6) {
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(port);
    address.sin6_addr = in6addr_loopback;
    return ::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return ::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

}  // namespace

LoopbackStream::LoopbackStream(EventLoop& loop, uint16_t port, bool only_v6, Owner owner)
    : owner_(std::move(owner)), port_(port), v6_(only_v6), last_address_(only_v6), watch_(loop) {}

Result<std::unique_ptr<LoopbackStream>> LoopbackStream::connect(EventLoop& loop, const v1::Connect& request,
                                                                Owner owner) {
  if (request.port() == 0 || request.port() > kHighestPort) {
    return Error(Errc::kInvalidArgument, "connect to TCP port " + std::to_string(request.port()));
  }
  std::unique_ptr<LoopbackStream> stream(
      new LoopbackStream(loop, static_cast<uint16_t>(request.port()), request.only_v6(), std::move(owner)));
  GRANARY_TRY(stream->try_next());
  return stream;
}

LoopbackStream::~LoopbackStream() {
  if (ended_ || !socket_.valid()) return;
  // Closed like this it is reset: the service must not take half of a stream for all of it.
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
}

Status LoopbackStream::try_next() {
  for (;;) {
    watch_.stop();
    socket_ = Fd(::socket(v6_ ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (socket_.valid() && (connect_to(socket_.get(), v6_, port_) == 0 || errno == EINPROGRESS)) break;
    const Error refusal = Error::last_os_error("connect to " + name_of(v6_, port_));
    if (!first_refusal_) first_refusal_ = refusal;
    if (last_address_) return *first_refusal_;
    v6_ = last_address_ = true;
  }
  const int yes = 1;
  ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  return watch_.start(socket_.get(), EPOLLOUT, [this](uint32_t events) { on_events(events); });
}

void LoopbackStream::on_events(uint32_t events) {
  if (!connected_) return on_connect_result();
  const bool had_input = !input_.empty();
  if ((events & EPOLLOUT) != 0) flush_input();
  // Not where input was written at once: who gave it goes on by itself.
  if (had_input && accepts_input()) owner_.wants_input();
  if (!ended_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read_output();
  watch_again();
}

void LoopbackStream::on_connect_result() {
  int error = 0;
  socklen_t size = sizeof(error);
  ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) {
    if (!first_refusal_) first_refusal_ = Error::from_errno(error, "connect to " + name_of(v6_, port_));
    if (last_address_) return fail(*first_refusal_);
    v6_ = last_address_ = true;
    if (const Status tried = try_next(); !tried) fail(tried.error());
    return;
  }
  connected_ = true;
  watch_again();
  v1::Reply done;
  done.mutable_done();
  owner_.reply(done);
  owner_.wants_input();
}

void LoopbackStream::read_output() {
  if (output_ended_ || !output_allowed_) return;
  std::array<char, kDataChunkBytes> buffer;
  const ssize_t n = ::read(socket_.get(), buffer.data(), buffer.size());
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0) return fail(Error::last_os_error("read from " + name_of(v6_, port_)));
  v1::Reply reply;
  if (n > 0) {
    reply.set_stdout_data(buffer.data(), static_cast<size_t>(n));
  } else {
    output_ended_ = true;
    ended_ = input_ended_;
    reply.set_stdout_end(true);
  }
  owner_.reply(reply);
}

void LoopbackStream::allow_output(bool allowed) {
  output_allowed_ = allowed;
  if (connected_) watch_again();
}

void LoopbackStream::write_input(std::string data) {
  if (ended_ || input_ends_) return;
  input_ = std::move(data);
  flush_input();
  watch_again();
}

void LoopbackStream::close_input() {
  if (ended_ || input_ends_) return;
  input_ends_ = true;
  flush_input();
}

void LoopbackStream::flush_input() {
  while (!input_.empty()) {
    const ssize_t n = ::send(socket_.get(), input_.data(), input_.size(), MSG_NOSIGNAL);
    if (n >= 0) {
      input_.erase(0, static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      return;
    } else if (errno != EINTR) {
      return fail(Error::last_os_error("write to " + name_of(v6_, port_)));
    }
  }
  if (input_ends_ && !input_ended_) {
    input_ended_ = true;
    ended_ = output_ended_;
    ::shutdown(socket_.get(), SHUT_WR);
  }
}

void LoopbackStream::fail(const Error& why) {
  watch_.stop();
  socket_.reset();
  input_.clear();
  ended_ = true;
  owner_.reply(failure(why));
  owner_.wants_input();
}

void LoopbackStream::watch_again() {
  const uint32_t events =
      (output_allowed_ && !output_ended_ ? uint32_t{EPOLLIN} : 0) | (input_.empty() ? 0 : uint32_t{EPOLLOUT});
  // Stopped, not modified: epoll would go on telling of a hang-up.
  if (ended_ || events == 0) return watch_.stop();
  const Status watched = watch_.start(socket_.get(), events, [this](uint32_t told) { on_events(told); });
  if (!watched) fail(watched.error());
}

}  // namespace granary::guest
