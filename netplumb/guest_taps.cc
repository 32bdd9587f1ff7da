// SPDX-License-Identifier: Apache-2.0
#include "netplumb/guest_taps.h"

#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include <algorithm>

#include "netplumb/ip_text.h"
#include "netplumb/read_config.h"
#include "netplumb/redirect.h"
#include "netplumb/tap.h"
#include "vmpool/base/fault.h"

namespace granary::netplumb {
namespace {

constexpr const char* kForwarding = "/proc/sys/net/ipv4/ip_forward";
constexpr uint32_t kDoomedGroup = 0x67726e79;  // of interfaces that are about to be removed together
constexpr uint8_t kProtocol = 0x67;            // of routes, RTA's "who made it": unused in iproute2's rt_protos
constexpr size_t kMostAtOnce = 32;             // guests in one send, which the socket's buffer bounds

std::span<const uint8_t> bytes_of(const IpAddress& v4) { return std::span(v4.bytes).first(4); }

ifinfomsg link_header(uint32_t index, unsigned flags = 0) {
  ifinfomsg header{};
  header.ifi_index = static_cast<int>(index);
  header.ifi_flags = header.ifi_change = flags;
  return header;
}

// While it is down. The kernel's own answers are its last defence should somebody flush the nf_tables rules.
Request settings(uint32_t index, const RoutedNetwork& network) {
  Request request(RTM_NEWLINK, 0, link_header(index, IFF_NOARP));
  request.put_value(IFLA_MTU, network.mtu);
  request.put(IFLA_ADDRESS, gateway_mac());
  request.nest(IFLA_AF_SPEC, [](Request& families) {
    families.nest(AF_INET, [](Request& v4) {
      v4.nest(IFLA_INET_CONF, [](Request& conf) {
        for (const auto& [which, value] : {std::pair<int, uint32_t>{IPV4_DEVCONF_FORWARDING, 1},
                                           {IPV4_DEVCONF_RP_FILTER, 1},
                                           {IPV4_DEVCONF_ACCEPT_REDIRECTS, 0},
                                           {IPV4_DEVCONF_SEND_REDIRECTS, 0}}) {
          conf.put_value(which, value);
        }
      });
    });
    families.nest(AF_INET6,
                  [](Request& v6) { v6.put_value<uint8_t>(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE); });
  });
  return request;
}

Request neighbour(uint32_t index, const RoutedNetwork& network, uint32_t guest) {
  ndmsg header{};
  header.ndm_family = AF_INET;
  header.ndm_ifindex = static_cast<int>(index);
  header.ndm_state = NUD_PERMANENT;
  Request request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, header);
  request.put(NDA_DST, bytes_of(address_of(network, guest))).put(NDA_LLADDR, mac_of(network, guest));
  return request;
}

rtmsg route_header(const Prefix& to, uint8_t type, uint8_t scope) {
  rtmsg header{};
  header.rtm_family = AF_INET;
  header.rtm_dst_len = to.length;
  header.rtm_table = RT_TABLE_MAIN;
  header.rtm_protocol = kProtocol;
  header.rtm_scope = scope;
  header.rtm_type = type;
  return header;
}

Request route(uint32_t index, const IpAddress& to) {
  Request request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route_header({to, 32}, RTN_UNICAST, RT_SCOPE_LINK));
  request.put(RTA_DST, bytes_of(to)).put_value(RTA_OIF, index);
  return request;
}

Request subnet_route(uint16_t type, uint16_t flags, const Prefix& subnet) {
  Request request(type, flags, route_header(subnet, RTN_BLACKHOLE, RT_SCOPE_UNIVERSE));
  request.put(RTA_DST, bytes_of(subnet.address));
  return request;
}

Status make_some(Netlink& netlink, const RoutedNetwork& network, std::span<const uint32_t> guests) {
  Requests requests;
  for (const uint32_t guest : guests) {
    const std::string name = tap_name(guest);
    (void)GRANARY_TRY(make_tap(name));  // persistent: it stays
    fault_point("taps.made");
    const uint32_t index = ::if_nametoindex(name.c_str());
    if (index == 0) return Error::last_os_error("find tap " + name);
    const IpAddress address = address_of(network, guest);
    requests.add(settings(index, network), "set up tap " + name + " with MTU " + std::to_string(network.mtu));
    requests.add(Request(RTM_NEWLINK, 0, link_header(index, IFF_UP)), "bring up tap " + name);
    requests.add(neighbour(index, network, guest), name + ": add the neighbour " + to_text(address));
    requests.add(route(index, address), name + ": add the route to " + to_text(address));
  }
  GRANARY_TRY(ask(netlink, requests));
  fault_point("taps.routed");
  return ok();
}

template <class Act>
Status in_parts(std::span<const uint32_t> guests, Act act) {
  for (; !guests.empty(); guests = guests.subspan(std::min(kMostAtOnce, guests.size()))) {
    GRANARY_TRY(act(guests.first(std::min(kMostAtOnce, guests.size()))));
  }
  return ok();
}

// Every IPv4 route, but those to the host itself.
Status read_routes(Netlink& netlink, const std::function<void()>& restart,
                   const std::function<void(const rtmsg&, const Prefix&)>& each) {
  rtmsg of_ipv4{};
  of_ipv4.rtm_family = AF_INET;
  return netlink.dump(Request(RTM_GETROUTE, 0, of_ipv4), "read routes", restart, [&](const nlmsghdr* message) {
    const Attributes<rtmsg, RTA_MAX> found(message);
    if (!found.valid || found.header.rtm_family != AF_INET) return;
    if ((found.header.rtm_flags & RTM_F_CLONED) != 0 || found.header.rtm_table == RT_TABLE_LOCAL) return;
    Prefix to{.address = {}, .length = found.header.rtm_dst_len};
    const auto bytes = found.value<std::array<uint8_t, 4>>(RTA_DST);
    std::ranges::copy(bytes, to.address.bytes.begin());
    each(found.header, to);
  });
}

}  // namespace

Status make_taps(const RoutedNetwork& network, std::span<const uint32_t> guests) {
  Netlink netlink = GRANARY_TRY(Netlink::open());
  return in_parts(guests, [&](std::span<const uint32_t> part) { return make_some(netlink, network, part); });
}

Result<Fd> open_tap(uint32_t guest) { return make_tap(tap_name(guest)); }

Status remove_taps(std::span<const uint32_t> guests) {
  Netlink netlink = GRANARY_TRY(Netlink::open());
  bool any = false;
  for (const uint32_t guest : guests) {
    const std::string name = tap_name(guest);
    ifinfomsg header{};
    Request request(RTM_NEWLINK, 0, header);
    request.put_text(IFLA_IFNAME, name).put_value(IFLA_GROUP, kDoomedGroup);
    const std::string what = "prepare the removal of tap " + name;
    const Status marked = netlink.ask({&request, 1}, {&what, 1});
    if (!marked && !marked.error().is_errno(ENODEV)) return marked;
    any = any || bool(marked);
  }
  if (!any) return ok();
  fault_point("taps.doomed");
  Request request(RTM_DELLINK, 0, ifinfomsg{});
  request.put_value(IFLA_GROUP, kDoomedGroup);
  const std::string what = "remove " + std::to_string(guests.size()) + " taps";
  const Status removed = netlink.ask({&request, 1}, {&what, 1});
  if (!removed && !removed.error().is_errno(ENODEV)) return removed;
  fault_point("taps.removed");
  return ok();
}

Result<std::set<uint32_t>> find_taps() {
  Netlink netlink = GRANARY_TRY(Netlink::open());
  std::set<uint32_t> guests;
  for (const Interface& one : GRANARY_TRY(read_interfaces(netlink))) {
    const auto guest = guest_of(one.name);
    if (guest && one.kind == "tun") guests.insert(*guest);
  }
  return guests;
}

Result<Traffic> traffic_of(uint32_t guest) {
  Netlink netlink = GRANARY_TRY(Netlink::open());
  Request request(RTM_GETLINK, 0, ifinfomsg{});
  const std::string name = tap_name(guest);
  request.put_text(IFLA_IFNAME, name);
  std::optional<Traffic> traffic;
  GRANARY_TRY(netlink.get(request, "read tap " + name, [&](const nlmsghdr* message) {
    const Attributes<ifinfomsg, IFLA_MAX> found(message);
    const auto stats = found.value<rtnl_link_stats64>(IFLA_STATS64);
    traffic = Traffic{.sent_bytes = stats.rx_bytes,
                      .sent_packets = stats.rx_packets,
                      .received_bytes = stats.tx_bytes,
                      .received_packets = stats.tx_packets};
  }));
  if (!traffic) return Error::from_errno(ENODEV, "read tap " + name);
  return *traffic;
}

Result<std::optional<Prefix>> find_overlap(const Prefix& subnet) {
  Netlink netlink = GRANARY_TRY(Netlink::open());
  std::optional<Prefix> found;
  GRANARY_TRY(read_routes(
      netlink, [&] { found.reset(); },
      [&](const rtmsg& header, const Prefix& to) {
        const bool ours = header.rtm_protocol == kProtocol;
        const bool covers_much = to.length < kShortestPrefix;  // a default route, or the two halves of one
        if (!ours && !covers_much && overlap(to, subnet)) found = to;
      }));
  return found;
}

Status add_subnet_route(const Prefix& subnet) {
  Netlink netlink = GRANARY_TRY(Netlink::open());
  const Request request = subnet_route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, subnet);
  const std::string what = "add the route that keeps " + to_text(subnet) + " here";
  return netlink.ask({&request, 1}, {&what, 1});
}

Result<bool> remove_subnet_route(const Prefix& subnet) {
  Netlink netlink = GRANARY_TRY(Netlink::open());
  const Request request = subnet_route(RTM_DELROUTE, 0, subnet);
  const std::string what = "remove the route that keeps " + to_text(subnet) + " here";
  const Status removed = netlink.ask({&request, 1}, {&what, 1});
  if (removed) return true;
  if (removed.error().is_errno(ESRCH)) return false;
  return removed.error();
}

Result<std::vector<Prefix>> find_subnet_routes() {
  Netlink netlink = GRANARY_TRY(Netlink::open());
  std::vector<Prefix> all;
  GRANARY_TRY(read_routes(
      netlink, [&] { all.clear(); },
      [&](const rtmsg& header, const Prefix& to) {
        if (header.rtm_protocol == kProtocol && header.rtm_type == RTN_BLACKHOLE) all.push_back(to);
      }));
  return all;
}

Result<bool> forwards_ipv4() { return GRANARY_TRY(read_file(kForwarding)).starts_with('1'); }

Status set_forwarding(bool on) {
  const Fd file = GRANARY_TRY(open_file(kForwarding, O_WRONLY));
  const std::string value = on ? "1" : "0";
  const Status written = write_all(file.get(), std::as_bytes(std::span(value)));
  if (written) return ok();
  return Error(written.error().code(), "write " + value + " to " + kForwarding + " (sysctl net.ipv4.ip_forward)");
}

}  // namespace granary::netplumb
