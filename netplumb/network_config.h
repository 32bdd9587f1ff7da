// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace granary::netplumb {

using MacAddress = std::array<uint8_t, 6>;

// An IPv4 or IPv6 address in network byte order.
struct IpAddress {
  bool v6 = false;
  std::array<uint8_t, 16> bytes{};  // of IPv4 the first four
  friend bool operator==(const IpAddress&, const IpAddress&) = default;
};

struct Prefix {
  IpAddress address;
  uint8_t length = 0;  // bits; 0: everything of this family
  friend bool operator==(const Prefix&, const Prefix&) = default;
};

// A wired interface: the n-th is the guest's n-th card. rtnetlink(7), RTM_NEWLINK.
struct Link {
  std::string name;  // at most 15 bytes
  MacAddress mac{};
  uint32_t mtu = 0;  // bytes
  friend bool operator==(const Link&, const Link&) = default;
};

// `link` below is an index into NetworkConfig::links.

// RTM_NEWADDR, with IFA_F_NOPREFIXROUTE: the route to its own network is one of NetworkConfig::routes, or was taken
// away.
struct Address {
  uint32_t link = 0;
  IpAddress local;
  uint8_t prefix_length = 0;
  std::optional<IpAddress> peer;       // IFA_ADDRESS where it differs from IFA_LOCAL
  std::optional<IpAddress> broadcast;  // IFA_BROADCAST
  uint8_t scope = 0;                   // RT_SCOPE_*
  friend bool operator==(const Address&, const Address&) = default;
};

// One way of a route; a route without a gateway is "scope link", or has a type that needs no way at all.
struct NextHop {
  std::optional<uint32_t> link;      // none: an unreachable, blackhole, prohibit or throw route
  std::optional<IpAddress> gateway;  // RTA_GATEWAY, or RTA_VIA where the family differs
  bool onlink = false;               // RTNH_F_ONLINK
  uint16_t weight = 1;               // of a multipath route, 1 to 256
  friend bool operator==(const NextHop&, const NextHop&) = default;
};

// RTM_NEWROUTE, of any table but the local one.
struct Route {
  Prefix destination;
  std::vector<NextHop> next_hops;   // at least one
  std::optional<IpAddress> source;  // RTA_PREFSRC
  uint32_t table = 0;               // RT_TABLE_*
  uint8_t type = 0;                 // RTN_*
  uint8_t scope = 0;                // RT_SCOPE_*
  uint8_t protocol = 0;             // RTPROT_*
  uint32_t metric = 0;              // RTA_PRIORITY
  uint32_t mtu = 0;                 // RTAX_MTU; 0: the link's
  bool mtu_locked = false;          // RTAX_LOCK
  uint32_t advertised_mss = 0;      // RTAX_ADVMSS; 0: the kernel's choice
  friend bool operator==(const Route&, const Route&) = default;
};

// A permanent neighbour entry: RTM_NEWNEIGH, NUD_PERMANENT.
struct Neighbour {
  uint32_t link = 0;
  IpAddress address;
  MacAddress mac{};
  friend bool operator==(const Neighbour&, const Neighbour&) = default;
};

// A policy rule: RTM_NEWRULE, but for the three that every namespace starts with (priorities 0, 32766, 32767).
struct Rule {
  bool v6 = false;
  uint32_t priority = 0;
  std::optional<Prefix> from;
  std::optional<Prefix> to;
  uint32_t table = 0;
  uint8_t action = 0;  // FR_ACT_*
  uint32_t mark = 0;   // FRA_FWMARK
  uint32_t mark_mask = 0;
  std::string input_link;   // FRA_IIFNAME; "lo" or a name of links
  std::string output_link;  // FRA_OIFNAME
  bool invert = false;      // FIB_RULE_INVERT
  friend bool operator==(const Rule&, const Rule&) = default;
};

// What a network namespace's wired interfaces are configured with, in the order in which it has to be applied.
struct NetworkConfig {
  std::vector<Link> links;
  std::vector<Address> addresses;
  std::vector<Neighbour> neighbours;
  std::vector<Route> routes;
  std::vector<Rule> rules;
  friend bool operator==(const NetworkConfig&, const NetworkConfig&) = default;
};

}  // namespace granary::netplumb
