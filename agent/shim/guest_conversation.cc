// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/guest_conversation.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "agent/shim/ttrpc_client.h"
#include "vmpool/base/machine_layout.h"

namespace granary::shim {
namespace {

constexpr size_t kLongestGreeting = 16;  // "OK " and a 32-bit number

}  // namespace

Result<std::unique_ptr<GuestConversation>> GuestConversation::open(EventLoop& loop, const std::string& socket_path,
                                                                   Handlers handlers, size_t most_reply_bytes) {
  Result<Fd> connected = ttrpc::connect_unix(socket_path);
  const auto is = [&](int number) { return !connected && connected.error().is_errno(number); };
  if (is(ENOENT) || is(ECONNREFUSED)) return Error(Errc::kPeerGone, "the guest: " + connected.error().message());
  Fd socket = GRANARY_TRY(std::move(connected));
  std::unique_ptr<GuestConversation> made(
      new GuestConversation(loop, std::move(socket), std::move(handlers), most_reply_bytes));
  GuestConversation* self = made.get();
  self->watched_ = EPOLLIN;
  self->token_ =
      GRANARY_TRY(loop.add(self->socket_.get(), EPOLLIN, [self](uint32_t events) { self->on_events(events); }));
  self->timer_ = loop.call_at(EventLoop::Clock::now() + kHandshakeLimit, [self] {
    self->timer_ = 0;
    self->close({Errc::kGuestUnresponsive, "the guest's init does not answer"});
  });
  self->queue_.push_back("CONNECT " + std::to_string(machine::kInitVsockPort) + "\n");
  self->unsent_bytes_ = self->queue_.front().size();
  self->flush();
  self->watch_again();
  return made;
}

GuestConversation::~GuestConversation() {
  loop_.remove(token_);
  loop_.remove(timer_);
}

Status GuestConversation::send(const guest::v1::Request& request) {
  std::string frame = GRANARY_TRY(guest::encode_frame(request));
  if (closed_) return ok();
  unsent_bytes_ += frame.size();
  queue_.push_back(std::move(frame));
  flush();  // or, once the greeting is answered: the muxer ends a connection that says more before
  watch_again();
  return ok();
}

void GuestConversation::hold_back(bool held) {
  held_ = held;
  // Later: the caller may be in the middle of a reply.
  if (!held && !handing_out_) hand_out();
  watch_again();
}

void GuestConversation::on_events(uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush();
  if (!closed_ && !held_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read_some();
  watch_again();
}

void GuestConversation::read_some() {
  if (timer_ != 0) {
    if (const Status done = read_handshake(); !done) return close(done.error());
    return;
  }
  const Result<guest::FrameReader::Read> read = reader_.read_from(socket_.get());
  if (!read) return close(read.error());
  ended_ = *read == guest::FrameReader::Read::kEnd;
  hand_out();
}

// A byte at a time, so that what follows is the frame reader's.
Status GuestConversation::read_handshake() {
  for (;;) {
    char byte = 0;
    const ssize_t n = ::read(socket_.get(), &byte, 1);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return ok();
    if (n <= 0) return Error(Errc::kPeerGone, "the guest's init refuses the connection");
    if (byte == '\n') break;
    greeting_.push_back(byte);
    if (greeting_.size() > kLongestGreeting) return Error(Errc::kGuestProtocol, "answer to CONNECT has no end");
  }
  if (!greeting_.starts_with("OK ")) return Error(Errc::kGuestProtocol, "answer to CONNECT is not OK");
  loop_.remove(timer_);
  timer_ = 0;
  flush();
  return ok();
}

void GuestConversation::hand_out() {
  handing_out_ = true;
  while (!closed_ && !held_) {
    guest::v1::Reply reply;
    const Result<bool> complete = reader_.next(reply);
    if (!complete) {
      close({Errc::kGuestProtocol, complete.error().message()});
    } else if (*complete) {
      handlers_.reply(reply);
    } else {
      if (ended_) close({Errc::kPeerGone, "the guest closed the conversation"});
      break;
    }
  }
  handing_out_ = false;
}

void GuestConversation::flush() {
  const bool had = unsent_bytes_ > 0;
  while (!closed_ && !queue_.empty() && (timer_ == 0 || !greeted_)) {
    const std::string_view rest = std::string_view(queue_.front()).substr(front_sent_);
    const ssize_t n = ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) {
      // Reading tells that the guest has gone, and what it still said.
      queue_.clear();
      front_sent_ = unsent_bytes_ = 0;
      return;
    }
    unsent_bytes_ -= static_cast<size_t>(n);
    front_sent_ += static_cast<size_t>(n);
    if (front_sent_ < queue_.front().size()) continue;
    queue_.pop_front();
    front_sent_ = 0;
    greeted_ = true;
  }
  if (had && !closed_ && queue_.empty() && timer_ == 0) handlers_.drained();
}

void GuestConversation::watch_again() {
  if (closed_) return;
  const bool writes = !queue_.empty() && (timer_ == 0 || !greeted_);
  const uint32_t wanted = (held_ ? 0U : EPOLLIN) | (writes ? EPOLLOUT : 0U);
  if (wanted == watched_) return;
  if (wanted == 0) {
    // Without any event asked for, a hang-up would still be told, again and again.
    loop_.remove(token_);
    token_ = 0;
  } else if (token_ != 0) {
    (void)loop_.modify(token_, wanted);
  } else if (const auto token = loop_.add(socket_.get(), wanted, [this](uint32_t events) { on_events(events); });
             token) {
    token_ = *token;
  } else {
    return close(token.error());
  }
  watched_ = wanted;
}

void GuestConversation::abandon() {
  closed_ = true;
  loop_.remove(token_);
  loop_.remove(timer_);
  timer_ = 0;
}

void GuestConversation::close(const Error& why) {
  if (closed_) return;
  abandon();
  handlers_.closed(why);
}

void let_go(EventLoop& loop, std::unique_ptr<GuestConversation> conversation) {
  if (!conversation) return;
  conversation->abandon();
  loop.post([old = std::shared_ptr<GuestConversation>(std::move(conversation))] {});
}

}  // namespace granary::shim
