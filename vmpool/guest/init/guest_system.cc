// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cstring>

#include "vmpool/base/fd.h"
#include "vmpool/guest/init/doorbell.h"
#include "vmpool/guest/init/host_clock.h"
#include "vmpool/guest/init/network.h"
#include "vmpool/guest/init/system.h"

namespace granary::guest {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;

Status write_file(const std::string& path, const std::string& text) {
  const Fd fd = GRANARY_TRY(open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  return write_all(fd.get(), std::as_bytes(std::span(text)));
}

Result<Fd> inet_socket() {
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return Error::last_os_error("open an INET socket");
  return socket;
}

ifreq request_for(const char* link) {
  ifreq request{};
  std::strncpy(request.ifr_name, link, IFNAMSIZ - 1);
  return request;
}

}  // namespace

Status GuestSystem::add_entropy(std::span<const std::byte> entropy) {
  // struct rand_pool_info ends in a flexible array: two ints, then the bytes.
  std::vector<int> request(2 + (entropy.size() + sizeof(int) - 1) / sizeof(int));
  request[0] = static_cast<int>(entropy.size() * 8);
  request[1] = static_cast<int>(entropy.size());
  std::memcpy(&request[2], entropy.data(), entropy.size());
  const Fd random = GRANARY_TRY(open_file("/dev/urandom", O_RDWR));
  if (::ioctl(random.get(), RNDADDENTROPY, request.data()) != 0) return Error::last_os_error("RNDADDENTROPY");
  if (::ioctl(random.get(), RNDRESEEDCRNG) != 0) return Error::last_os_error("RNDRESEEDCRNG");
  return ok();
}

Result<int64_t> GuestSystem::host_realtime_ns() { return read_host_clock(); }

Status GuestSystem::set_realtime(int64_t realtime_ns) {
  const timespec time{realtime_ns / kNsPerSecond, realtime_ns % kNsPerSecond};
  if (::clock_settime(CLOCK_REALTIME, &time) != 0) return Error::last_os_error("clock_settime");
  return ok();
}

int64_t GuestSystem::realtime_ns() const {
  timespec time{};
  ::clock_gettime(CLOCK_REALTIME, &time);
  return time.tv_sec * kNsPerSecond + time.tv_nsec;
}

Status GuestSystem::set_hostname(const std::string& name) {
  if (::sethostname(name.data(), name.size()) != 0) return Error::last_os_error("sethostname");
  GRANARY_TRY(write_file("/etc/hostname", name + "\n"));
  return write_file("/etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\t" + name + "\n::1\tlocalhost\n");
}

Status GuestSystem::set_machine_id(const std::string& hex) {
  GRANARY_TRY(write_file("/etc/machine-id", hex + "\n"));
  return write_file("/run/machine-id", hex + "\n");
}

Status GuestSystem::set_mac_addresses(const MacAddress& first) {
  const Fd socket = GRANARY_TRY(inet_socket());
  MacAddress mac = first;
  for (const Card& card : GRANARY_TRY(find_ethernet_links())) {
    ifreq request = request_for(card.name.c_str());
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    std::memcpy(request.ifr_hwaddr.sa_data, mac.data(), mac.size());
    if (::ioctl(socket.get(), SIOCSIFHWADDR, &request) != 0) return Error::last_os_error("SIOCSIFHWADDR " + card.name);
    ++mac.back();
  }
  return ok();
}

Status GuestSystem::loopback_up() {
  const Fd socket = GRANARY_TRY(inet_socket());
  ifreq request = request_for("lo");
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return Error::last_os_error("SIOCGIFFLAGS lo");
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return Error::last_os_error("SIOCSIFFLAGS lo");
  return ok();
}

Status GuestSystem::configure_network(const v1::Network& network) {
  GRANARY_TRY(apply_network(network, GRANARY_TRY(find_cards())));
  const std::string resolvers = resolv_conf(network);
  return resolvers.empty() ? ok() : write_file("/etc/resolv.conf", resolvers);
}

Result<std::string> GuestSystem::boot_id() {
  std::string id = GRANARY_TRY(read_file("/proc/sys/kernel/random/boot_id"));
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return id;
}

Status GuestSystem::power_off() {
  // Without a doorbell the host sees an S5 without announcement, which is no reason to stay up.
  (void)ring_doorbell(machine::Doorbell::kOrderlyShutdown);
  ::sync();
  ::reboot(RB_POWER_OFF);
  return Error::last_os_error("reboot(RB_POWER_OFF)");
}

}  // namespace granary::guest
