// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "netplumb/network_config.h"
#include "vmpool/base/result.h"

namespace granary::netplumb {

// A network of guests that the host routes: each guest is alone on a tap of its own and has one address of `subnet`, a
// route of the host's leads there, and everything else is behind its gateway, the host. There is no segment that guests
// share, so none of them can speak to another, or for it, below IP.
struct RoutedNetwork {
  Prefix subnet;                       // IPv4, kShortestPrefix to kLongestPrefix
  uint32_t mtu = 1500;                 // bytes
  uint64_t up_bytes_per_second = 0;    // of one guest, from it; 0: no limit
  uint64_t down_bytes_per_second = 0;  // to it
  uint32_t most_connections = 4096;    // that one guest has open through the host
  std::vector<IpAddress> resolvers;    // IPv4; reachable at port 53 whatever else is denied
  friend bool operator==(const RoutedNetwork&, const RoutedNetwork&) = default;
};

inline constexpr uint8_t kShortestPrefix = 8;
inline constexpr uint8_t kLongestPrefix = 29;
inline constexpr size_t kMaxResolvers = 3;  // resolv.conf(5), MAXNS

// A guest is known by its number: that of its address in the subnet, from kFirstGuest to last_guest(). 1 is the
// gateway, which no interface of the host has: guests know its MAC address, and the host answers no ARP.
inline constexpr uint32_t kFirstGuest = 2;
uint32_t last_guest(const RoutedNetwork& network);

std::string tap_name(uint32_t guest);                      // "granary7"
std::optional<uint32_t> guest_of(const std::string& tap);  // nothing for what is no such name
IpAddress gateway_of(const RoutedNetwork& network);
IpAddress address_of(const RoutedNetwork& network, uint32_t guest);
MacAddress mac_of(const RoutedNetwork& network, uint32_t guest);  // unique on the host
MacAddress gateway_mac();                                         // that of every tap
// What the guest is to be configured with; its card is called eth0.
NetworkConfig config_of(const RoutedNetwork& network, uint32_t guest);

}  // namespace granary::netplumb
