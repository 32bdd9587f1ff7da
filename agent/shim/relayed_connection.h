// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "agent/shim/guest_conversation.h"
#include "netplumb/loopback_listener.h"

namespace granary::shim {

// A TCP connection of the pod's network namespace, carried to a service on the guest's loopback (guest.proto: Connect).
// Each direction ends by itself. Everything else, a service that refuses included, is a reset: the connection was
// accepted before the guest could be asked. Neither side is read faster than the other one takes it; both are bounded.
class RelayedConnection {
 public:
  // What is kept for a client that reads slowly; from there on the guest is held back.
  static constexpr size_t kKeptBytes = 128 * 1024;
  static constexpr size_t kPieceBytes = 32 * 1024;
  // For the guest to say whether somebody is there.
  static constexpr std::chrono::seconds kConnectLimit{30};

  // Called once, from the loop; the owner destroys it then. `why` it was reset; empty: both directions have ended.
  using Ended = std::function<void(const std::string& why)>;
  RelayedConnection(EventLoop& loop, Fd client, Ended ended)
      : loop_(loop), client_(std::move(client)), ended_(std::move(ended)) {}
  ~RelayedConnection();
  RelayedConnection(const RelayedConnection&) = delete;
  RelayedConnection& operator=(const RelayedConnection&) = delete;

  // An error: there is no guest; nobody is told of its end.
  Status start(const std::string& guest_socket, const netplumb::LoopbackDestination& to);

 private:
  void on_reply(guest::v1::Reply& reply);
  void on_client(uint32_t events);
  void read_client();
  void write_client(std::string_view bytes);
  void flush_client();
  void on_conversation_closed(const Error& why);
  void watch_client();
  void reset(std::string why);
  void end();

  EventLoop& loop_;
  Fd client_;
  Ended ended_;
  std::unique_ptr<GuestConversation> conversation_;
  EventLoop::Token watch_ = 0;
  uint32_t watched_ = 0;
  EventLoop::Token timer_ = 0;  // until the guest has connected; when it is over, of telling that
  bool connected_ = false;
  bool client_ended_ = false;  // no more comes from the client, and the guest was told
  bool guest_ended_ = false;   // no more comes from the guest
  bool client_told_ = false;   // and the client knows
  bool over_ = false;
  std::string kept_;  // from the guest, not yet taken by the client
  size_t begin_ = 0;
};

}  // namespace granary::shim
