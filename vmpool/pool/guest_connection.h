// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <google/protobuf/message_lite.h>

#include <string>

#include "vmpool/base/fd.h"
#include "vmpool/guest/frame.h"
#include "vmpool/pool/deadline.h"

namespace granary::pool {

// One conversation with a guest's init over the per-clone socket: the muxer's handshake, then frames. Every wait is
// bounded by a deadline: the guest is hostile and may stop reading or answering at any time. kGuestProtocol: it sent
// what cannot be parsed.
class GuestConnection {
 public:
  // "CONNECT <port>\n", answered by "OK <number>\n". kGuestUnresponsive at the deadline; kPeerGone when the guest
  // refuses or the VMM has gone.
  static Result<GuestConnection> connect(const std::string& socket_path, uint32_t port, SteadyTime deadline);

  // kDeadlineExceeded: part of the message may have been sent, the connection is of no more use.
  Status send(const google::protobuf::MessageLite& message, SteadyTime deadline);
  // kDeadlineExceeded; kPeerGone at the end of the stream.
  Status receive(google::protobuf::MessageLite& message, SteadyTime deadline);

  // Readable when receive() may have something to read; what was read already (has_buffered()) does not show in it.
  [[nodiscard]] int poll_fd() const { return socket_.get(); }
  [[nodiscard]] bool has_buffered() const { return reader_.buffered_bytes() > 0; }

 private:
  explicit GuestConnection(Fd socket) : socket_(std::move(socket)) {}
  Status handshake(uint32_t port, SteadyTime deadline);
  Status send_bytes(std::string_view bytes, SteadyTime deadline);

  Fd socket_;
  guest::FrameReader reader_;
};

}  // namespace granary::pool
