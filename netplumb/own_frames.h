// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/filter.h>

#include <span>
#include <vector>

#include "netplumb/network_config.h"
#include "vmpool/base/result.h"

namespace granary::netplumb {

inline constexpr size_t kMostOwnAddresses = 64;  // of one interface

// What a guest may send in the place of an interface with this MAC and these addresses, as a classic BPF program for a
// tc-bpf(8) filter with direct action: TC_ACT_UNSPEC (the next filter decides) for what it may, TC_ACT_SHOT otherwise.
//
//   every frame  from `mac`, without a VLAN tag, whole as far as it is looked at
//   ARP          for IPv4 on Ethernet, whose sender is `mac` and one of the addresses (RFC 826)
//   IPv4         from one of the addresses
//   IPv6         from one of the addresses; no router advertisement or redirect, neighbour advertisements only of the
//                addresses (RFC 4861); of extension headers a fragment header that comes first, without neighbour
//                discovery behind it (RFC 6980), and a router alert in front of MLD (RFC 3810)
//   others       nothing
//
// Pure. kNotSupported: more than kMostOwnAddresses.
Result<std::vector<sock_filter>> own_frames_program(const MacAddress& mac, std::span<const IpAddress> addresses);

}  // namespace granary::netplumb
