// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/relayed_connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <utility>

namespace granary::shim {
namespace {

// A piece of data and the field around it. A guest that says more at once is no granary-init.
constexpr size_t kMostReplyBytes = guest::kDataChunkBytes + 1024;

}  // namespace

RelayedConnection::~RelayedConnection() {
  loop_.remove(watch_);
  loop_.remove(timer_);
  if (!client_.valid()) return;
  const linger at_once{.l_onoff = 1, .l_linger = 0};  // closed like this it is reset
  ::setsockopt(client_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
}

Status RelayedConnection::start(const std::string& guest_socket, const netplumb::LoopbackDestination& to) {
  const int yes = 1;
  ::setsockopt(client_.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  // A client that has closed and is not read from any more would not be noticed for as long as the service keeps its
  // end.
  ::setsockopt(client_.get(), SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
  for (const auto& [option, value] : {std::pair(TCP_KEEPIDLE, 60), {TCP_KEEPINTVL, 10}, {TCP_KEEPCNT, 3}}) {
    ::setsockopt(client_.get(), IPPROTO_TCP, option, &value, sizeof(value));
  }
  conversation_ =
      GRANARY_TRY(GuestConversation::open(loop_, guest_socket,
                                          {.reply = [this](guest::v1::Reply& reply) { on_reply(reply); },
                                           .drained = [this] { watch_client(); },
                                           .closed = [this](const Error& why) { on_conversation_closed(why); }},
                                          kMostReplyBytes));
  guest::v1::Request request;
  request.mutable_connect()->set_port(to.port);
  request.mutable_connect()->set_only_v6(to.v6);
  GRANARY_TRY(conversation_->send(request));
  timer_ = loop_.call_at(EventLoop::Clock::now() + kConnectLimit, [this] {
    timer_ = 0;
    reset("the guest does not answer");
  });
  watch_client();
  return ok();
}

void RelayedConnection::on_reply(guest::v1::Reply& reply) {
  if (over_) return;
  switch (reply.kind_case()) {
    case guest::v1::Reply::kDone:
      if (connected_) break;
      connected_ = true;
      loop_.remove(std::exchange(timer_, 0));
      return watch_client();
    case guest::v1::Reply::kStdoutData:
      if (!connected_ || guest_ended_) break;
      return write_client(reply.stdout_data());
    case guest::v1::Reply::kStdoutEnd:
      if (!connected_ || guest_ended_) break;
      guest_ended_ = true;
      return flush_client();
    case guest::v1::Reply::kFailure:
      return reset(reply.failure().message().substr(0, 256));
    default:
      break;
  }
  reset("the guest sent what nobody waits for");
}

void RelayedConnection::on_client(uint32_t events) {
  if (over_) return;
  if ((events & EPOLLOUT) != 0) flush_client();
  if (!over_ && (events & EPOLLIN) != 0 && (watched_ & EPOLLIN) != 0) return read_client();
  // Both directions are over, or it was reset.
  if (!over_ && (events & (EPOLLHUP | EPOLLERR)) != 0 && !(client_ended_ && client_told_)) reset("the client has gone");
}

void RelayedConnection::read_client() {
  std::array<char, kPieceBytes> piece;
  const ssize_t n = ::read(client_.get(), piece.data(), piece.size());
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0) return reset("the client has gone");
  guest::v1::Request request;
  if (n > 0) {
    request.set_stdin_data(piece.data(), static_cast<size_t>(n));
  } else {
    client_ended_ = true;
    request.set_close_stdin(true);
  }
  (void)conversation_->send(request);  // `drained` asks for more
  watch_client();
}

void RelayedConnection::write_client(std::string_view bytes) {
  kept_.append(bytes);
  flush_client();
  if (!over_ && conversation_ && kept_.size() - begin_ > kKeptBytes) conversation_->hold_back(true);
}

void RelayedConnection::flush_client() {
  while (begin_ < kept_.size()) {
    const ssize_t n = ::send(client_.get(), kept_.data() + begin_, kept_.size() - begin_, MSG_NOSIGNAL);
    if (n > 0) {
      begin_ += static_cast<size_t>(n);
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      return reset("the client has gone");
    }
  }
  if (begin_ == kept_.size()) {
    std::string().swap(kept_);
    begin_ = 0;
    if (guest_ended_ && !client_told_) {
      client_told_ = true;
      ::shutdown(client_.get(), SHUT_WR);
    }
    if (!conversation_) return end();
  } else if (begin_ > kKeptBytes) {
    kept_.erase(0, std::exchange(begin_, 0));
  }
  if (conversation_ && kept_.size() - begin_ <= kKeptBytes) conversation_->hold_back(false);
  watch_client();
}

void RelayedConnection::on_conversation_closed(const Error& why) {
  let_go(loop_, std::move(conversation_));
  if (over_) return;
  if (!client_ended_ || !guest_ended_) return reset(why.message());
  if (kept_.empty()) return end();
  watch_client();
}

// Nothing is read while the guest has not taken what was; a hang-up is told all the same.
void RelayedConnection::watch_client() {
  if (over_) return;
  const bool reads = connected_ && !client_ended_ && conversation_ && conversation_->unsent_bytes() == 0;
  const uint32_t wanted = (reads ? uint32_t{EPOLLIN} : 0) | (kept_.empty() ? 0 : uint32_t{EPOLLOUT});
  // Of a connection whose ends have both been sent epoll would tell for ever, also while the last of it is not read
  // yet.
  if (client_told_ && wanted == 0) return loop_.remove(std::exchange(watch_, 0));
  if (watch_ != 0 && wanted == watched_) return;
  watched_ = wanted;
  if (watch_ != 0) {
    (void)loop_.modify(watch_, wanted);
  } else if (const auto watch = loop_.add(client_.get(), wanted, [this](uint32_t events) { on_client(events); });
             watch) {
    watch_ = *watch;
  } else {
    reset(watch.error().message());
  }
}

// Told later, because it may be called from anywhere here; nothing is done until then.
void RelayedConnection::reset(std::string why) {
  if (std::exchange(over_, true)) return;
  loop_.remove(timer_);
  timer_ = loop_.call_at(EventLoop::Clock::now(), [this, why = std::move(why)] { ended_(why); });
}

void RelayedConnection::end() {
  if (over_) return;
  loop_.remove(std::exchange(watch_, 0));
  client_.reset();
  reset("");
}

}  // namespace granary::shim
