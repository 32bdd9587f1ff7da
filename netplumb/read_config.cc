// SPDX-License-Identifier: Apache-2.0
#include "netplumb/read_config.h"

#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>

#include <algorithm>
#include <cstring>

namespace granary::netplumb {
namespace {

std::optional<IpAddress> ip_address(const nlattr* attribute, int family) {
  if (attribute == nullptr) return std::nullopt;
  const size_t bytes = family == AF_INET6 ? 16 : 4;
  if (static_cast<size_t>(::nla_len(attribute)) < bytes) return std::nullopt;
  IpAddress address{.v6 = family == AF_INET6, .bytes = {}};
  std::memcpy(address.bytes.data(), ::nla_data(attribute), bytes);
  return address;
}

bool is_ip(int family) { return family == AF_INET || family == AF_INET6; }

Prefix prefix(const nlattr* attribute, int family, uint8_t length) {
  Prefix result{.address = {.v6 = family == AF_INET6, .bytes = {}}, .length = length};
  if (const auto address = ip_address(attribute, family)) result.address = *address;
  return result;
}

class Reader {
 public:
  Reader(Netlink& netlink, const std::vector<Interface>& wired) : netlink_(netlink), wired_(wired) {}

  Result<NetworkConfig> read() {
    for (const Interface& one : wired_) config_.links.push_back({.name = one.name, .mac = one.mac, .mtu = one.mtu});
    GRANARY_TRY(netlink_.dump(
        Request(RTM_GETADDR, 0, ifaddrmsg{}), "read addresses", [this] { config_.addresses.clear(); },
        [this](const nlmsghdr* m) { address(m); }));
    GRANARY_TRY(netlink_.dump(
        Request(RTM_GETNEIGH, 0, ndmsg{}), "read neighbours", [this] { config_.neighbours.clear(); },
        [this](const nlmsghdr* m) { neighbour(m); }));
    GRANARY_TRY(netlink_.dump(
        Request(RTM_GETROUTE, 0, rtmsg{}), "read routes", [this] { config_.routes.clear(); },
        [this](const nlmsghdr* m) { route(m); }));
    GRANARY_TRY(netlink_.dump(
        Request(RTM_GETRULE, 0, fib_rule_hdr{}), "read rules", [this] { config_.rules.clear(); },
        [this](const nlmsghdr* m) { rule(m); }));
    if (refused_) return *refused_;
    return std::move(config_);
  }

 private:
  [[nodiscard]] std::optional<uint32_t> link_of(uint32_t index) const {
    const auto at = std::ranges::find(wired_, index, &Interface::index);
    if (at == wired_.end()) return std::nullopt;
    return static_cast<uint32_t>(at - wired_.begin());
  }
  void refuse(const std::string& what) {
    if (!refused_)
      refused_ =
          Error(Errc::kNotSupported, what + ", which a guest is not given; take it away or use another runtime class");
  }

  void address(const nlmsghdr* message) {
    const Attributes<ifaddrmsg, IFA_MAX> found(message);
    const int family = found.header.ifa_family;
    const auto link = link_of(found.header.ifa_index);
    const uint32_t flags = found[IFA_FLAGS] != nullptr ? found.value<uint32_t>(IFA_FLAGS) : found.header.ifa_flags;
    if (!found.valid || !link || !is_ip(family) || (flags & IFA_F_DADFAILED) != 0) return;
    if (family == AF_INET6 && (flags & IFA_F_TEMPORARY) != 0) return;  // of IPv4 the same bit says "secondary"
    const auto remote = ip_address(found[IFA_ADDRESS], family);
    const auto local = found[IFA_LOCAL] != nullptr ? ip_address(found[IFA_LOCAL], family) : remote;
    if (!local) return;
    config_.addresses.push_back({.link = *link,
                                 .local = *local,
                                 .prefix_length = found.header.ifa_prefixlen,
                                 .peer = remote == local ? std::nullopt : remote,
                                 .broadcast = ip_address(found[IFA_BROADCAST], family),
                                 .scope = found.header.ifa_scope});
  }

  void neighbour(const nlmsghdr* message) {
    const Attributes<ndmsg, NDA_MAX> found(message);
    const auto link = link_of(static_cast<uint32_t>(found.header.ndm_ifindex));
    const int family = found.header.ndm_family;
    if (!found.valid || !link || !is_ip(family)) return;
    if ((found.header.ndm_state & NUD_PERMANENT) == 0 || (found.header.ndm_flags & NTF_PROXY) != 0) return;
    const auto ip = ip_address(found[NDA_DST], family);
    if (ip) config_.neighbours.push_back({.link = *link, .address = *ip, .mac = found.value<MacAddress>(NDA_LLADDR)});
  }

  [[nodiscard]] static std::optional<IpAddress> gateway(nlattr* plain, nlattr* via, int family) {
    if (plain != nullptr) return ip_address(plain, family);
    if (via == nullptr || ::nla_len(via) < static_cast<int>(sizeof(rtvia))) return std::nullopt;
    const auto* other = static_cast<const rtvia*>(::nla_data(via));
    const size_t bytes = static_cast<size_t>(::nla_len(via)) - sizeof(rtvia);
    IpAddress address{.v6 = other->rtvia_family == AF_INET6, .bytes = {}};
    if (!is_ip(other->rtvia_family) || bytes < (address.v6 ? 16U : 4U)) return std::nullopt;
    std::memcpy(address.bytes.data(), other->rtvia_addr, address.v6 ? 16 : 4);
    return address;
  }

  // False: no way leads over wired links.
  bool next_hops(const Attributes<rtmsg, RTA_MAX>& found, Route& route) {
    const int family = found.header.rtm_family;
    if (found[RTA_MULTIPATH] == nullptr) {
      const auto link = link_of(found.value<uint32_t>(RTA_OIF));
      if (!link && route.type == RTN_UNICAST) return false;
      route.next_hops.push_back({.link = route.type == RTN_UNICAST ? link : std::nullopt,
                                 .gateway = gateway(found[RTA_GATEWAY], found[RTA_VIA], family),
                                 .onlink = (found.header.rtm_flags & RTNH_F_ONLINK) != 0,
                                 .weight = 1});
      return true;
    }
    auto* hop = static_cast<rtnexthop*>(::nla_data(found[RTA_MULTIPATH]));
    for (int left = ::nla_len(found[RTA_MULTIPATH]); RTNH_OK(hop, left);
         left -= static_cast<int>(RTNH_ALIGN(hop->rtnh_len)), hop = RTNH_NEXT(hop)) {
      std::array<nlattr*, RTA_MAX + 1> table{};
      auto* const attributes = reinterpret_cast<nlattr*>(RTNH_DATA(hop));
      if (::nla_parse(table.data(), RTA_MAX, attributes, static_cast<int>(hop->rtnh_len - sizeof(*hop)), nullptr) != 0)
        return false;
      const auto link = link_of(static_cast<uint32_t>(hop->rtnh_ifindex));
      if (!link) continue;  // of an interface that is down: the others serve
      route.next_hops.push_back({.link = link,
                                 .gateway = gateway(table[RTA_GATEWAY], table[RTA_VIA], family),
                                 .onlink = (hop->rtnh_flags & RTNH_F_ONLINK) != 0,
                                 .weight = static_cast<uint16_t>(hop->rtnh_hops + 1)});
    }
    return !route.next_hops.empty();
  }

  static void metrics(nlattr* attribute, Route& route) {
    std::array<nlattr*, RTAX_MAX + 1> table{};
    if (attribute == nullptr || ::nla_parse_nested(table.data(), RTAX_MAX, attribute, nullptr) != 0) return;
    if (table[RTAX_MTU] != nullptr) route.mtu = ::nla_get_u32(table[RTAX_MTU]);
    if (table[RTAX_ADVMSS] != nullptr) route.advertised_mss = ::nla_get_u32(table[RTAX_ADVMSS]);
    if (table[RTAX_LOCK] != nullptr) route.mtu_locked = (::nla_get_u32(table[RTAX_LOCK]) & (1U << RTAX_MTU)) != 0;
  }

  void route(const nlmsghdr* message) {
    const Attributes<rtmsg, RTA_MAX> found(message);
    const rtmsg& header = found.header;
    if (!found.valid || !is_ip(header.rtm_family) || (header.rtm_flags & RTM_F_CLONED) != 0) return;
    Route route{.destination = prefix(found[RTA_DST], header.rtm_family, header.rtm_dst_len),
                .next_hops = {},
                .source = ip_address(found[RTA_PREFSRC], header.rtm_family),
                .table = found[RTA_TABLE] != nullptr ? found.value<uint32_t>(RTA_TABLE) : header.rtm_table,
                .type = header.rtm_type,
                .scope = header.rtm_scope,
                .protocol = header.rtm_protocol,
                .metric = found.value<uint32_t>(RTA_PRIORITY)};
    // The local table is the guest kernel's own work, and so is what IPv6 has for "no route at all".
    if (route.table == RT_TABLE_LOCAL || (header.rtm_protocol == RTPROT_KERNEL && route.metric == ~0U)) return;
    const bool leads_nowhere = route.type == RTN_UNREACHABLE || route.type == RTN_BLACKHOLE ||
                               route.type == RTN_PROHIBIT || route.type == RTN_THROW;
    if (route.type == RTN_LOCAL) return refuse("a route of type local outside the local table");
    if (route.type != RTN_UNICAST && !leads_nowhere) return;
    if (!next_hops(found, route)) return;
    if (found[RTA_ENCAP] != nullptr) return refuse("a route with an encapsulation");
    if (header.rtm_src_len != 0 || header.rtm_tos != 0) return refuse("a route by source address or TOS");
    metrics(found[RTA_METRICS], route);
    config_.routes.push_back(std::move(route));
  }

  void rule(const nlmsghdr* message) {
    const Attributes<fib_rule_hdr, FRA_MAX> found(message);
    const fib_rule_hdr& header = found.header;
    if (!found.valid || !is_ip(header.family)) return;
    Rule rule{.v6 = header.family == AF_INET6,
              .priority = found.value<uint32_t>(FRA_PRIORITY),
              .from = std::nullopt,
              .to = std::nullopt,
              .table = found[FRA_TABLE] != nullptr ? found.value<uint32_t>(FRA_TABLE) : header.table,
              .action = header.action,
              .mark = found.value<uint32_t>(FRA_FWMARK),
              .mark_mask = found.value<uint32_t>(FRA_FWMASK),
              .input_link = found.text(FRA_IIFNAME),
              .output_link = found.text(FRA_OIFNAME),
              .invert = (header.flags & FIB_RULE_INVERT) != 0};
    if (header.src_len > 0) rule.from = prefix(found[FRA_SRC], header.family, header.src_len);
    if (header.dst_len > 0) rule.to = prefix(found[FRA_DST], header.family, header.dst_len);
    // Every namespace starts with these, a guest as well.
    Rule plain;
    plain.v6 = rule.v6;
    plain.priority = rule.priority;
    plain.table = rule.table;
    plain.action = FR_ACT_TO_TBL;
    const auto is = [&](uint32_t priority, uint32_t table) { return rule.priority == priority && rule.table == table; };
    if (rule == plain && (is(0, RT_TABLE_LOCAL) || is(32766, RT_TABLE_MAIN) || is(32767, RT_TABLE_DEFAULT))) return;
    const bool suppresses =
        found[FRA_SUPPRESS_PREFIXLEN] != nullptr && found.value<uint32_t>(FRA_SUPPRESS_PREFIXLEN) != ~0U;
    for (const int selector : {FRA_GOTO, FRA_SUPPRESS_IFGROUP, FRA_TUN_ID, FRA_L3MDEV, FRA_UID_RANGE, FRA_IP_PROTO,
                               FRA_SPORT_RANGE, FRA_DPORT_RANGE}) {
      if (found[selector] != nullptr)
        return refuse("the rule of priority " + std::to_string(rule.priority) + " has a selector or an action");
    }
    if (suppresses || header.tos != 0)
      return refuse("the rule of priority " + std::to_string(rule.priority) + " has a selector");
    config_.rules.push_back(std::move(rule));
  }

  Netlink& netlink_;
  const std::vector<Interface>& wired_;
  NetworkConfig config_;
  std::optional<Error> refused_;
};

}  // namespace

Result<std::vector<Interface>> read_interfaces(Netlink& netlink) {
  std::vector<Interface> all;
  const auto add = [&](const nlmsghdr* message) {
    const Attributes<ifinfomsg, IFLA_MAX> found(message);
    std::array<nlattr*, IFLA_INFO_MAX + 1> info{};
    if (!found.valid) return;
    if (found[IFLA_LINKINFO] != nullptr) ::nla_parse_nested(info.data(), IFLA_INFO_MAX, found[IFLA_LINKINFO], nullptr);
    all.push_back({.index = static_cast<uint32_t>(found.header.ifi_index),
                   .name = found.text(IFLA_IFNAME),
                   .kind = info[IFLA_INFO_KIND] != nullptr ? ::nla_get_string(info[IFLA_INFO_KIND]) : "",
                   .ethernet = found.header.ifi_type == ARPHRD_ETHER,
                   .up = (found.header.ifi_flags & IFF_UP) != 0 && (found.header.ifi_flags & IFF_LOOPBACK) == 0,
                   .lower = found[IFLA_LINK_NETNSID] == nullptr ? found.value<uint32_t>(IFLA_LINK) : 0,
                   .mac = found.value<MacAddress>(IFLA_ADDRESS),
                   .mtu = found.value<uint32_t>(IFLA_MTU),
                   .queue_length = found.value<uint32_t>(IFLA_TXQLEN)});
  };
  GRANARY_TRY(netlink.dump(
      Request(RTM_GETLINK, 0, ifinfomsg{}), "read interfaces", [&] { all.clear(); }, add));
  return all;
}

Result<NetworkConfig> read_config(Netlink& netlink, const std::vector<Interface>& wired) {
  return Reader(netlink, wired).read();
}

}  // namespace granary::netplumb
