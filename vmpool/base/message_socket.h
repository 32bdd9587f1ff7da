// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "vmpool/base/fd.h"

namespace granary {

// Largest message on a control socket, header included.
inline constexpr size_t kMaxMessageBytes = 64 * 1024;
// Most file descriptors in one message.
inline constexpr size_t kMaxMessageFds = 8;

struct RawMessage {
  std::vector<std::byte> bytes;
  std::vector<Fd> fds;
};

// A pair of connected SOCK_SEQPACKET unix sockets (close-on-exec).
struct SocketPair {
  Fd first;
  Fd second;
};
Result<SocketPair> create_message_socket_pair();

// Sends one message, whole or not at all. kPeerGone after the peer closed; EAGAIN when a non-blocking socket is full.
Status send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds = {});

// Receives one message. Waits at most `timeout_ms` (-1: for ever, 0: not at all), then kDeadlineExceeded. kPeerGone at end
// of file. A message that is too long or carries too many descriptors is kProtocolMalformed, and none of its descriptors
// stays open. Received descriptors are close-on-exec.
Result<RawMessage> receive_message(int socket, int timeout_ms = -1);

}  // namespace granary
