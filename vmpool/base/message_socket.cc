// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/message_socket.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace granary {
namespace {

// Room for more descriptors than allowed, so that too many are seen and closed, not silently cut by the kernel.
constexpr size_t kControlBytes = CMSG_SPACE(sizeof(int) * (kMaxMessageFds * 2));

std::vector<Fd> take_fds(msghdr& message) {
  std::vector<Fd> fds;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

Status wait_readable(int socket, int timeout_ms) {
  pollfd p{.fd = socket, .events = POLLIN, .revents = 0};
  for (;;) {
    const int n = ::poll(&p, 1, timeout_ms);
    if (n > 0) return ok();
    if (n == 0) return Error(Errc::kDeadlineExceeded, "wait for a control message");
    if (errno != EINTR) return Error::last_os_error("poll a control socket");
  }
}

}  // namespace

Result<SocketPair> create_message_socket_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return Error::last_os_error("socketpair");
  }
  return SocketPair{Fd(ends[0]), Fd(ends[1])};
}

Status send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  if (bytes.size() > kMaxMessageBytes || fds.size() > kMaxMessageFds) {
    return Error(Errc::kInvalidArgument, "control message of " + std::to_string(bytes.size()) + " bytes, " +
                                             std::to_string(fds.size()) + " descriptors");
  }
  iovec part{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  alignas(cmsghdr) std::array<char, kControlBytes> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  for (;;) {
    if (::sendmsg(socket, &message, MSG_NOSIGNAL) >= 0) return ok();
    if (errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET) return Error(Errc::kPeerGone, "send a control message");
    return Error::last_os_error("send a control message");
  }
}

Result<RawMessage> receive_message(int socket, int timeout_ms) {
  GRANARY_TRY(wait_readable(socket, timeout_ms));
  RawMessage result;
  // As long as the next message: clearing room for the longest takes longer than the rest of this.
  const ssize_t waiting = ::recv(socket, nullptr, 0, MSG_PEEK | MSG_TRUNC);
  result.bytes.resize(std::min(static_cast<size_t>(std::max<ssize_t>(waiting, 0)), kMaxMessageBytes));
  iovec part{.iov_base = result.bytes.data(), .iov_len = result.bytes.size()};
  alignas(cmsghdr) std::array<char, kControlBytes> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t n = -1;
  do {
    n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno == ECONNRESET) return Error(Errc::kPeerGone, "receive a control message");
  if (n < 0) return Error::last_os_error("receive a control message");
  result.fds = take_fds(message);
  if (n == 0) return Error(Errc::kPeerGone, "receive a control message");
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || result.fds.size() > kMaxMessageFds) {
    return Error(Errc::kProtocolMalformed, "control message longer or with more descriptors than allowed");
  }
  result.bytes.resize(static_cast<size_t>(n));
  return result;
}

}  // namespace granary
