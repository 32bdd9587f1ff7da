// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/guest_control.h"

#include <utility>

#include "agent/shim/rpc_status.h"

namespace granary::shim {

Error to_error(const guest::v1::Failure& failure) {
  constexpr size_t kMostBytes = 4096;  // crun's own words can be long, and a guest is hostile
  const std::string text = failure.message().substr(0, kMostBytes);
  switch (failure.kind()) {
    case guest::v1::Failure::NOT_FOUND:
      return rpc_error(Rpc::kNotFound, text);
    case guest::v1::Failure::EXISTS:
      return rpc_error(Rpc::kAlreadyExists, text);
    case guest::v1::Failure::INVALID:
      return rpc_error(Rpc::kInvalidArgument, text);
    default:
      return rpc_error(Rpc::kUnknown, text);
  }
}

GuestControl::~GuestControl() {
  loop_.remove(timer_);
  loop_.remove(pause_);
}

void GuestControl::open() {
  const Status connected = connect();
  if (!connected) on_not_connected(connected.error(), connected.error());
}

Status GuestControl::connect() {
  conversation_ = GRANARY_TRY(GuestConversation::open(loop_, socket_path_,
                                                      {.reply = [this](guest::v1::Reply& reply) { on_reply(reply); },
                                                       .closed = [this](const Error& why) { on_closed(why); }}));
  return ok();
}

void GuestControl::ask(const guest::v1::Request& request, Done done) {
  const auto fail = [&](const Error& why) { loop_.post([done = std::move(done), why] { done(why); }); };
  if (!conversation_) return fail({Errc::kPeerGone, "the guest's init is not there"});
  if (open_.size() >= kMaxOpen) return fail(rpc_error(Rpc::kResourceExhausted, "the guest does not answer in time"));
  if (const Status sent = conversation_->send(request); !sent) return fail(sent.error());
  open_.push_back(std::move(done));
  if (timer_ == 0) watch_answer();
}

void GuestControl::watch_answer() {
  timer_ = loop_.call_at(EventLoop::Clock::now() + kAnswerLimit, [this] {
    timer_ = 0;
    // A late answer would be taken for the next one's, so this conversation is of no more use.
    on_closed({Errc::kGuestUnresponsive, "the guest's init does not answer"});
  });
}

void GuestControl::on_reply(guest::v1::Reply& reply) {
  loop_.remove(std::exchange(timer_, 0));
  if (open_.empty()) return on_closed({Errc::kGuestProtocol, "the guest answers what nobody asked"});
  const Done done = std::move(open_.front());
  open_.pop_front();
  if (!open_.empty()) watch_answer();
  if (reply.has_failure()) return done(to_error(reply.failure()));
  done(std::move(reply));
}

void GuestControl::on_closed(const Error& why) {
  loop_.remove(std::exchange(timer_, 0));
  let_go(loop_, std::move(conversation_));
  const auto now = EventLoop::Clock::now();
  if (now >= counted_from_ + kPause) {
    counted_from_ = now;
    openings_ = 0;
  }
  if (++openings_ <= kMostOpenings) {
    open_again(why);
  } else {
    open_later(why);
  }
  fail_all(why);
}

void GuestControl::open_again(const Error& why) {
  if (is_gone_) return;
  if (const Status connected = connect(); !connected) on_not_connected(connected.error(), why);
}

// Without descriptors, or with a muxer that has its hands full, the guest may be well.
void GuestControl::on_not_connected(const Error& error, const Error& why) {
  if (error.is(Errc::kPeerGone)) {
    is_gone_ = true;
    return gone_(why);
  }
  open_later(why);
}

void GuestControl::open_later(const Error& why) {
  if (pause_ != 0) return;
  pause_ = loop_.call_at(EventLoop::Clock::now() + kPause, [this, why] {
    pause_ = 0;
    open_again(why);
  });
}

void GuestControl::fail_all(const Error& why) {
  std::deque<Done> open;
  open.swap(open_);
  for (const Done& done : open) done(why);
}

}  // namespace granary::shim
