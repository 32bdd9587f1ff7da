// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "agent/shim/guest_conversation.h"

namespace granary::shim {

// What a guest's Failure means to a caller of the Task service.
Error to_error(const guest::v1::Failure& failure);

// Questions to the guest's init that belong to no process, one after another on a conversation that stays open: so its
// end tells that the clone has gone, also while nothing is asked.
class GuestControl {
 public:
  static constexpr std::chrono::seconds kAnswerLimit{60};
  static constexpr size_t kMaxOpen = 256;
  // New conversations in a second: a guest that ends each at once shall not keep the shim busy.
  static constexpr int kMostOpenings = 4;
  static constexpr std::chrono::seconds kPause{1};
  // A reply that is no Failure, or why there is none: to_error(), kPeerGone, kGuestUnresponsive.
  using Done = std::function<void(Result<guest::v1::Reply>)>;

  // `gone`: once, when nothing listens at the clone's socket any more.
  GuestControl(EventLoop& loop, std::string socket_path, std::function<void(const Error& why)> gone)
      : loop_(loop), socket_path_(std::move(socket_path)), gone_(std::move(gone)) {}
  ~GuestControl();
  GuestControl(const GuestControl&) = delete;
  GuestControl& operator=(const GuestControl&) = delete;

  // A guest that is not there is told by `gone`, from within; one that cannot be reached now is tried again.
  void open();
  // `done` is called from the loop, never from within this call.
  void ask(const guest::v1::Request& request, Done done);

 private:
  void on_reply(guest::v1::Reply& reply);
  void on_closed(const Error& why);
  void fail_all(const Error& why);
  void watch_answer();
  Status connect();
  void open_again(const Error& why);
  void open_later(const Error& why);
  void on_not_connected(const Error& error, const Error& why);

  EventLoop& loop_;
  std::string socket_path_;
  std::function<void(const Error&)> gone_;
  std::unique_ptr<GuestConversation> conversation_;
  std::deque<Done> open_;
  EventLoop::Token timer_ = 0;  // of the oldest question
  EventLoop::Clock::time_point counted_from_;
  int openings_ = 0;
  EventLoop::Token pause_ = 0;
  bool is_gone_ = false;
};

}  // namespace granary::shim
