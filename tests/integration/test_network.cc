// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/test_network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <vector>

namespace granary::integration {
namespace {

constexpr int kPatienceSeconds = 300;

ifreq request_for(const std::string& name) {
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  return request;
}

Fd any_socket() { return Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)); }

sockaddr_in to_address(const std::string& text, uint16_t port = 0) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  ::inet_pton(AF_INET, text.c_str(), &address.sin_addr);
  return address;
}

short flags_of(const std::string& name) {
  ifreq request = request_for(name);
  return ::ioctl(any_socket().get(), SIOCGIFFLAGS, &request) == 0 ? request.ifr_flags : short{0};
}

// The Internet checksum (RFC 1071) of an even number of bytes.
uint16_t checksum(const std::string& bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    uint16_t word;
    std::memcpy(&word, bytes.data() + i, sizeof(word));
    sum += word;
  }
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

std::string echo_request(std::string payload) {
  if (payload.size() % 2 != 0) payload += ' ';
  icmphdr header{};
  header.type = ICMP_ECHO;
  header.un.echo.id = htons(0x4752);
  std::string packet(sizeof(header), '\0');
  std::memcpy(packet.data(), &header, sizeof(header));
  packet += payload;
  header.checksum = checksum(packet);
  std::memcpy(packet.data(), &header, sizeof(header));
  return packet;
}

bool is_reply(const std::string& received, const std::string& request) {
  constexpr size_t kIp = sizeof(iphdr);  // without options
  return received.size() == kIp + request.size() && received[kIp] == ICMP_ECHOREPLY &&
         received.substr(kIp + sizeof(icmphdr)) == request.substr(sizeof(icmphdr));
}

}  // namespace

Status enter_fresh_network() {
  if (::unshare(CLONE_NEWNET) != 0) return Error::last_os_error("a network namespace for the test (root?)");
  return ok();
}

Result<Fd> open_tap(const std::string& name) {
  Fd tap = GRANARY_TRY(open_file("/dev/net/tun", O_RDWR));
  ifreq request = request_for(name);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(tap.get(), TUNSETIFF, &request) != 0) return Error::last_os_error("TUNSETIFF " + name);
  return tap;
}

Status set_persistent(const Fd& tap, bool persistent) {
  if (::ioctl(tap.get(), TUNSETPERSIST, persistent ? 1 : 0) != 0) return Error::last_os_error("TUNSETPERSIST");
  return ok();
}

bool interface_exists(const std::string& name) { return ::if_nametoindex(name.c_str()) != 0; }
bool interface_running(const std::string& name) { return (flags_of(name) & IFF_RUNNING) != 0; }

// /proc/net/dev, proc(5): eight columns of what was received, then eight of what was sent; the fourth is drops.
std::optional<uint64_t> dropped_frames(const std::string& name) {
  std::ifstream table("/proc/thread-self/net/dev");
  for (std::string line; std::getline(table, line);) {
    std::istringstream words(line);
    std::string interface;
    if (!(words >> interface) || interface != name + ":") continue;
    const std::vector<uint64_t> columns{std::istream_iterator<uint64_t>(words), {}};
    if (columns.size() == 16) return columns[3] + columns[11];
  }
  return std::nullopt;
}

Status bring_up(const std::string& name, const std::string& address) {
  const Fd socket = any_socket();
  const auto set = [&](unsigned long what, const std::string& value) -> Status {
    ifreq request = request_for(name);
    const sockaddr_in in = to_address(value);
    std::memcpy(&request.ifr_addr, &in, sizeof(in));
    if (::ioctl(socket.get(), what, &request) != 0) return Error::last_os_error(name + " " + value);
    return ok();
  };
  GRANARY_TRY(set(SIOCSIFADDR, address));
  GRANARY_TRY(set(SIOCSIFNETMASK, "255.255.255.0"));
  ifreq request = request_for(name);
  request.ifr_flags = static_cast<short>(flags_of(name) | IFF_UP);
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return Error::last_os_error(name + " up");
  return ok();
}

Status ping(const std::string& address, const std::string& payload) {
  const Fd socket(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
  if (!socket.valid()) return Error::last_os_error("raw socket");
  const sockaddr_in to = to_address(address);
  const std::string request = echo_request(payload);
  for (int attempt = 0; attempt < kPatienceSeconds; ++attempt) {
    (void)::sendto(socket.get(), request.data(), request.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof(to));
    pollfd readable{.fd = socket.get(), .events = POLLIN, .revents = 0};
    while (::poll(&readable, 1, 1000) == 1) {
      std::string received(65536, '\0');
      const ssize_t n = ::recv(socket.get(), received.data(), received.size(), MSG_DONTWAIT);
      received.resize(n > 0 ? static_cast<size_t>(n) : 0);
      if (is_reply(received, request)) return ok();
    }
  }
  return Error(Errc::kDeadlineExceeded, "ping " + address);
}

Result<Fd> listen_on(const std::string& address, uint16_t port) {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in at = to_address(address, port);
  if (!socket.valid() || ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)) != 0 ||
      ::listen(socket.get(), 1) != 0) {
    return Error::last_os_error("listen on " + address);
  }
  return socket;
}

Result<Fd> accept_one(const Fd& listener) {
  pollfd readable{.fd = listener.get(), .events = POLLIN, .revents = 0};
  if (::poll(&readable, 1, kPatienceSeconds * 1000) != 1) return Error(Errc::kDeadlineExceeded, "no connection came");
  Fd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid()) return Error::last_os_error("accept");
  return socket;
}

}  // namespace granary::integration
