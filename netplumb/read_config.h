// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "netplumb/netlink.h"
#include "netplumb/network_config.h"

namespace granary::netplumb {

// An interface of a namespace, of whatever kind.
struct Interface {
  uint32_t index = 0;
  std::string name;
  std::string kind;  // IFLA_INFO_KIND: "veth"; empty for a piece of hardware
  bool ethernet = false;
  bool up = false;
  uint32_t lower = 0;  // IFLA_LINK in this namespace: the index of what a vlan is made on; 0: none, or elsewhere
  MacAddress mac{};
  uint32_t mtu = 0;
  uint32_t queue_length = 0;  // IFLA_TXQLEN
};

Result<std::vector<Interface>> read_interfaces(Netlink& netlink);

// What `wired` are configured with; links in their order. kNotSupported: a route or rule that a guest cannot have as it
// is.
Result<NetworkConfig> read_config(Netlink& netlink, const std::vector<Interface>& wired);

}  // namespace granary::netplumb
