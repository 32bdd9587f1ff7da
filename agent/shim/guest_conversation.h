// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "vmpool/base/event_loop.h"
#include "vmpool/guest/frame.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::shim {

// One conversation with the guest's init over the per-clone socket (vmpool/guest/guest.proto), on an event loop: the
// muxer's handshake, then frames. Nothing here waits: containers of a pod are served by one thread, which no guest can
// stop. The guest is hostile: what does not parse ends the conversation; what it does not read is bounded by the
// callers, which look at unsent_bytes().
class GuestConversation {
 public:
  struct Handlers {
    std::function<void(guest::v1::Reply& reply)> reply;
    // All that was sent has been taken.
    std::function<void()> drained = [] {};
    // Once, as the last call: kPeerGone, kGuestProtocol, kGuestUnresponsive (no handshake in time). The owner destroys
    // it, not before this has returned.
    std::function<void(const Error& why)> closed;
  };
  static constexpr std::chrono::seconds kHandshakeLimit{10};

  // kPeerGone when nothing listens at the path. A reply longer than `most_reply_bytes` ends it.
  static Result<std::unique_ptr<GuestConversation>> open(EventLoop& loop, const std::string& socket_path,
                                                         Handlers handlers,
                                                         size_t most_reply_bytes = guest::kMaxFrameBytes);
  ~GuestConversation();
  GuestConversation(const GuestConversation&) = delete;
  GuestConversation& operator=(const GuestConversation&) = delete;

  // kInvalidArgument for what does not fit a frame. Ignored once closed.
  Status send(const guest::v1::Request& request);
  [[nodiscard]] size_t unsent_bytes() const { return unsent_bytes_; }
  // Nothing is told or sent any more.
  void abandon();
  // Replies wait in the guest, by back-pressure, while it is held back.
  void hold_back(bool held);

 private:
  GuestConversation(EventLoop& loop, Fd socket, Handlers handlers, size_t most_reply_bytes)
      : loop_(loop), socket_(std::move(socket)), handlers_(std::move(handlers)), reader_(most_reply_bytes) {}
  void on_events(uint32_t events);
  void read_some();
  Status read_handshake();
  void hand_out();
  void flush();
  void close(const Error& why);
  void watch_again();

  EventLoop& loop_;
  Fd socket_;
  Handlers handlers_;
  EventLoop::Token token_ = 0;
  EventLoop::Token timer_ = 0;  // until the handshake is through
  uint32_t watched_ = 0;
  std::string greeting_;  // its answer, as far as it came
  bool greeted_ = false;
  guest::FrameReader reader_;
  bool ended_ = false;  // the stream; frames may still be in the reader
  std::deque<std::string> queue_;
  size_t front_sent_ = 0;
  size_t unsent_bytes_ = 0;
  bool held_ = false;
  bool handing_out_ = false;
  bool closed_ = false;
};

// Ends a conversation in whose callback the caller may be.
void let_go(EventLoop& loop, std::unique_ptr<GuestConversation> conversation);

}  // namespace granary::shim
