// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <unordered_map>

#include "vmpool/base/event_loop.h"
#include "vmpool/virtio/vsock_connection.h"

namespace granary::virtio {

struct VsockOptions {
  // Beyond this many connections the listener is not accepted from and adopt() fails.
  size_t max_connections = 1024;
  // For the handshake line, for the guest's answer to a connection request, and for its RST that ends a clean close.
  std::chrono::milliseconds timeout{5000};
};

// All connections of a vsock device: accepts and shakes hands with host clients, finds the connection of a packet,
// gives each connection its turn to send, and ends those that hang. Of the guest's own connections it serves those to
// machine::kClockVsockPort, without keeping any state of them, and refuses all others. Knows no rings. Loop thread
// only.
class VsockMuxer {
 public:
  // `output_ready` is called when there may be something for the guest that was not there before.
  VsockMuxer(EventLoop& loop, uint64_t guest_cid, Fd listener, VsockOptions options,
             std::function<void()> output_ready);
  ~VsockMuxer();
  VsockMuxer(const VsockMuxer&) = delete;
  VsockMuxer& operator=(const VsockMuxer&) = delete;

  // Serves the listener / stops that and drops every connection.
  Status start();
  void stop();

  Status adopt(Fd stream, uint32_t guest_port, bool with_handshake = false);

  // A packet from the guest; `chain` stands at its payload.
  void receive(const VsockHeader& header, Chain& chain);
  // Replies to packets without a connection are bounded; no packet may be received while this is false.
  [[nodiscard]] bool can_receive() const { return replies_.size() < kMaxReplies; }

  // Whether a connection (or a reply) wants a buffer of the guest.
  [[nodiscard]] bool has_output() const { return !replies_.empty() || !ready_.empty(); }
  // Fills `chain` with the next packet, connections taking turns. False: there was nothing to send after all, and the
  // chain is untouched. kDeviceInvalid: the guest's buffer cannot hold a packet.
  Result<bool> send(Chain& chain);

  [[nodiscard]] size_t size() const { return connections_.size() + handshakes_.size(); }
  [[nodiscard]] uint64_t refused_packets() const { return refused_packets_; }
  [[nodiscard]] uint32_t next_host_port() const { return next_host_port_; }
  void set_next_host_port(uint32_t port) { next_host_port_ = port; }

  static constexpr uint32_t kFirstHostPort = 1U << 30;

 private:
  using Clock = EventLoop::Clock;
  static constexpr size_t kMaxReplies = 256;
  static constexpr size_t kMaxHandshakeBytes = 32;
  struct Entry {
    VsockConnection connection;
    EventLoop::Token watch = 0;
    uint32_t events = 0;
    bool queued = false;
    Clock::time_point deadline = Clock::time_point::max();
  };
  struct Handshake {
    Fd stream;
    EventLoop::Token watch = 0;
    Clock::time_point deadline;
  };
  struct Reply {
    VsockKey key;
    uint16_t type;
    uint16_t op;
  };

  void accept_clients();
  void watch_listener(bool wanted);
  void read_handshake(uint64_t id, uint32_t events);
  void end_handshake(uint64_t id);
  void host_event(VsockKey key, uint32_t events);
  void settle(VsockKey key, Entry& entry);
  void refuse(const VsockHeader& header);
  void tell_time(const VsockHeader& header);
  void send_reply(VsockHeader& header, Chain& chain);
  void arm_timer(Clock::time_point deadline);
  void expire();
  [[nodiscard]] bool full() const { return size() >= options_.max_connections; }
  VsockKey new_key(uint32_t guest_port);

  EventLoop& loop_;
  uint64_t guest_cid_;
  Fd listener_;
  VsockOptions options_;
  std::function<void()> output_ready_;
  EventLoop::Token listener_watch_ = 0;
  bool listener_wanted_ = false;
  bool running_ = false;
  std::unordered_map<VsockKey, Entry, VsockKeyHash> connections_;
  std::unordered_map<uint64_t, Handshake> handshakes_;
  uint64_t next_handshake_ = 1;
  std::deque<VsockKey> ready_;
  std::deque<Reply> replies_;
  EventLoop::Token timer_ = 0;
  Clock::time_point timer_due_ = Clock::time_point::max();
  uint32_t next_host_port_ = kFirstHostPort;
  uint64_t refused_packets_ = 0;
};

}  // namespace granary::virtio
