// SPDX-License-Identifier: Apache-2.0
#include "netplumb/loopback_listener.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include "netplumb/netns.h"

namespace granary::netplumb {
namespace {

// Both have this value; their headers cannot be included beside netinet/in.h.
constexpr int kOriginalDestination = 80;
constexpr int kBacklog = 128;

struct Address {
  sockaddr_storage bytes{};
  socklen_t size = 0;
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&bytes); }
};

Address loopback_address(int family, uint16_t port) {
  Address address;
  if (family == AF_INET6) {
    auto* const v6 = reinterpret_cast<sockaddr_in6*>(&address.bytes);
    v6->sin6_addr = in6addr_loopback;
    v6->sin6_port = htons(port);
    address.size = sizeof(*v6);
  } else {
    auto* const v4 = reinterpret_cast<sockaddr_in*>(&address.bytes);
    v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    v4->sin_port = htons(port);
    address.size = sizeof(*v4);
  }
  address.bytes.ss_family = static_cast<sa_family_t>(family);
  return address;
}

Result<Fd> listen_at(int family, uint16_t port, const std::string& netns_name) {
  const std::string what = "network namespace " + netns_name + ": listen on loopback port " + std::to_string(port);
  Fd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return Error::last_os_error(what);
  constexpr char kLoopback[] = "lo";
  const int yes = 1;
  const Address address = loopback_address(family, port);
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_BINDTODEVICE, kLoopback, sizeof(kLoopback)) != 0 ||
      ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) != 0 ||
      ::bind(socket.get(), address.get(), address.size) != 0 || ::listen(socket.get(), kBacklog) != 0) {
    return Error::last_os_error(what);
  }
  return socket;
}

bool lacks_v6(const Error& error) { return error.is_errno(EAFNOSUPPORT) || error.is_errno(EADDRNOTAVAIL); }

}  // namespace

Result<std::vector<Fd>> listen_on_loopback(int netns, const std::string& netns_name, uint16_t port) {
  std::vector<Fd> listeners;
  GRANARY_TRY(in_netns(netns, [&]() -> Status {
    listeners.push_back(GRANARY_TRY(listen_at(AF_INET, port, netns_name)));
    Result<Fd> v6 = listen_at(AF_INET6, port, netns_name);
    if (!v6 && lacks_v6(v6.error())) return ok();
    listeners.push_back(GRANARY_TRY(std::move(v6)));
    return ok();
  }));
  return listeners;
}

Result<LoopbackDestination> original_destination(int socket) {
  sockaddr_storage own{};
  socklen_t size = sizeof(own);
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&own), &size) != 0) {
    return Error::last_os_error("where a connection arrived");
  }
  const bool v6 = own.ss_family == AF_INET6;
  sockaddr_storage meant{};
  size = v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  const Error none(Errc::kInvalidArgument, "a connection that was not redirected from loopback");
  if (::getsockopt(socket, v6 ? IPPROTO_IPV6 : IPPROTO_IP, kOriginalDestination, &meant, &size) != 0) return none;
  if (v6) {
    const auto* const to = reinterpret_cast<const sockaddr_in6*>(&meant);
    if (!IN6_IS_ADDR_LOOPBACK(&to->sin6_addr)) return none;
    return LoopbackDestination{ntohs(to->sin6_port), true};
  }
  const auto* const to = reinterpret_cast<const sockaddr_in*>(&meant);
  if (ntohl(to->sin_addr.s_addr) >> 24 != IN_LOOPBACKNET) return none;
  return LoopbackDestination{ntohs(to->sin_port), false};
}

}  // namespace granary::netplumb
