// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/virtio_vsock.h>

#include <cstdint>

#include "vmpool/base/fd.h"
#include "vmpool/virtio/byte_ring.h"
#include "vmpool/virtio/queue.h"

namespace granary::virtio {

using VsockHeader = virtio_vsock_hdr;
static_assert(sizeof(VsockHeader) == 44);

// The host's context id is fixed by the specification (5.10.4), so ports alone name a connection.
struct VsockKey {
  uint32_t guest_port = 0;
  uint32_t host_port = 0;
  friend bool operator==(VsockKey, VsockKey) = default;
};
struct VsockKeyHash {
  size_t operator()(VsockKey key) const {
    return std::hash<uint64_t>()(uint64_t{key.guest_port} << 32 | key.host_port);
  }
};

// What the guest may send ahead of the host's reader, per connection (buf_alloc, 5.10.6.3).
inline constexpr uint32_t kVsockBufferBytes = 256 * 1024;
// Most payload in one packet to the guest.
inline constexpr uint32_t kVsockMaxPayload = 64 * 1024;
// Smallest rx buffer of the guest that we accept: a header (44) and something behind it.
inline constexpr size_t kVsockMinRxBuffer = 64;

// One stream between a host socket and a guest port: state, credit (5.10.6.3) and shutdown (5.10.6.5) of one
// connection. Bytes to the guest are read from the socket straight into the guest's buffers, so they wait in the socket
// while the guest has no credit; bytes to the host that its socket does not take wait here, at most kVsockBufferBytes,
// which is what the guest's credit is made of. Knows neither epoll nor rings. Loop thread only.
class VsockConnection {
 public:
  // `stream`: a connected, non-blocking stream socket. `announce`: write "OK <host port>\n" to it when the guest
  // accepts.
  VsockConnection(VsockKey key, Fd stream, bool announce);

  // A packet from the guest for this connection; `chain` stands at its payload.
  void receive(const VsockHeader& header, Chain& chain);
  // What epoll said about the socket (edge-triggered).
  void host_event(uint32_t events);
  // Ends the connection for both sides at once: the guest did not answer in time, or broke the protocol.
  void reset();

  [[nodiscard]] bool has_output() const { return pending_ != 0 || can_read(); }
  // Fills in the next packet's op, length and credit, and the payload behind the header. False: nothing after all.
  Result<bool> send(VsockHeader& header, Chain& chain);

  // The connection is over and everything about it has been said to both sides.
  [[nodiscard]] bool finished() const;
  // The guest owes an answer.
  [[nodiscard]] bool awaits_guest() const { return phase_ == Phase::kConnecting || phase_ == Phase::kClosing; }
  // Bytes wait for the host's socket to become writable.
  [[nodiscard]] bool wants_writable() const { return !to_host_.empty(); }
  // The host's socket is of no more use: take it out of epoll, then close it. In this order, because another process
  // may hold the same open file, which would keep the registration alive.
  [[nodiscard]] bool stream_done() const { return stream_done_; }
  void close_stream();

 private:
  enum class Phase {
    kConnecting,  // REQUEST sent or about to be
    kOpen,
    kClosing,   // the host's end is gone: SHUTDOWN of both directions, waits for RST
    kDraining,  // the guest's end is gone: RST if it is still owed, and the rest of its bytes goes to the host
    kReset,     // gone on our decision: RST is still to be sent
    kGone,
  };
  enum Pending : uint8_t { kRequest = 1, kRst = 2, kShutdown = 4, kCreditUpdate = 8, kCreditRequest = 16 };

  [[nodiscard]] uint32_t credit() const;
  [[nodiscard]] bool can_read() const;
  void operate(const VsockHeader& header, Chain& chain);
  void accepted();
  void data_from_guest(uint32_t length, Chain& chain);
  void shutdown_from_guest(uint32_t flags);
  void guest_gone(bool owe_rst);
  void host_gone();
  void flush_to_host();
  void forwarded(size_t bytes);
  Result<bool> send_data(VsockHeader& header, Chain& chain);
  [[nodiscard]] bool nothing_to_read() const;
  void end_of_host_data();
  bool send_control(VsockHeader& header, Chain& chain, uint16_t op, uint32_t flags);
  void finish_header(VsockHeader& header, uint16_t op, uint32_t length, uint32_t flags);

  VsockKey key_;
  Fd stream_;
  ByteRing to_host_{kVsockBufferBytes};
  Phase phase_ = Phase::kConnecting;
  uint8_t pending_ = kRequest;
  bool announce_;
  bool stream_done_ = false;
  bool readable_ = false;      // the socket may have bytes or its end of file
  bool host_ended_ = false;    // its end of file was read
  bool host_hung_up_ = false;  // both of its directions are closed
  bool guest_ended_ = false;   // passed on as shutdown(SHUT_WR)
  bool credit_asked_ = false;
  uint32_t guest_shutdown_ = 0;  // VIRTIO_VSOCK_SHUTDOWN_* of the guest
  // Free-running counters of 5.10.6.3.
  uint32_t rx_count_ = 0;   // from the guest
  uint32_t forwarded_ = 0;  // of these, taken by the host
  uint32_t told_forwarded_ = 0;
  uint32_t tx_count_ = 0;  // to the guest
  uint32_t peer_buf_alloc_ = 0;
  uint32_t peer_fwd_cnt_ = 0;
};

}  // namespace granary::virtio
