// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/frame_socket.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstring>

namespace granary::integration {
namespace {

// Room for a flood's answers that nobody has read yet; a packet socket drops what finds none.
constexpr int kReceiveBytes = 64 << 20;
constexpr size_t kEthernetHeader = 14;

template <class T>
Status set_option(const Fd& socket, int level, int name, const T& value, const char* what) {
  if (::setsockopt(socket.get(), level, name, &value, sizeof(value)) != 0) return Error::last_os_error(what);
  return ok();
}

}  // namespace

Result<FrameSocket> FrameSocket::open(const std::string& link, uint16_t ether_type) {
  Fd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return Error::last_os_error("packet socket (root?)");
  GRANARY_TRY(set_option(socket, SOL_PACKET, PACKET_VNET_HDR, 1, "PACKET_VNET_HDR"));
  GRANARY_TRY(set_option(socket, SOL_SOCKET, SO_RCVBUFFORCE, kReceiveBytes, "SO_RCVBUFFORCE"));
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ether_type);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(link.c_str()));
  if (address.sll_ifindex == 0) return Error::last_os_error("link " + link);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Error::last_os_error("bind to " + link);
  }
  return FrameSocket(std::move(socket));
}

Status FrameSocket::send(std::string_view frame, const FrameOffload& offload) const {
  std::array<iovec, 2> parts = {iovec{const_cast<FrameOffload*>(&offload), sizeof(offload)},
                                iovec{const_cast<char*>(frame.data()), frame.size()}};
  for (;;) {
    if (::writev(fd_.get(), parts.data(), parts.size()) >= 0) return ok();
    if (errno != EAGAIN && errno != ENOBUFS) {
      return Error::last_os_error("send a frame of " + std::to_string(frame.size()) + " bytes");
    }
    pollfd writable{.fd = fd_.get(), .events = POLLOUT, .revents = 0};
    ::poll(&writable, 1, -1);
  }
}

Result<std::optional<std::string>> FrameSocket::receive(int timeout_ms, FrameOffload* offload) {
  FrameOffload ignored;
  std::array<iovec, 2> parts = {iovec{offload != nullptr ? offload : &ignored, sizeof(FrameOffload)},
                                iovec{buffer_.data(), buffer_.size()}};
  pollfd readable{.fd = fd_.get(), .events = POLLIN, .revents = 0};
  if (::poll(&readable, 1, timeout_ms) == 0) return std::optional<std::string>();
  const ssize_t n = ::readv(fd_.get(), parts.data(), parts.size());
  if (n < static_cast<ssize_t>(sizeof(FrameOffload))) return Error::last_os_error("receive a frame");
  return std::optional(buffer_.substr(0, static_cast<size_t>(n) - sizeof(FrameOffload)));
}

std::string numbered_frame(size_t bytes, uint64_t number, uint16_t ether_type) {
  std::string frame("\x02\0\0\0\0\x02\x02\0\0\0\0\x01", 12);
  frame += static_cast<char>(ether_type >> 8);
  frame += static_cast<char>(ether_type);
  frame.append(reinterpret_cast<const char*>(&number), sizeof(number));
  uint64_t state = number;
  while (frame.size() < bytes) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    frame.append(reinterpret_cast<const char*>(&state), sizeof(state));
  }
  frame.resize(bytes);
  return frame;
}

uint64_t number_of(std::string_view frame) {
  uint64_t number = 0;
  if (frame.size() >= kEthernetHeader + sizeof(number)) {
    std::memcpy(&number, frame.data() + kEthernetHeader, sizeof(number));
  }
  return number;
}

}  // namespace granary::integration
