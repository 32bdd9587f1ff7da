// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

#include "netplumb/network_config.h"

namespace granary::agent {

// The IPv4 name servers of a resolv.conf(5) that others than its host can ask: without loopback addresses, at most
// three.
std::vector<netplumb::IpAddress> parse_resolvers(std::string_view resolv_conf);
// This host's: of /etc/resolv.conf, or, where that names but a stub on the loopback device, those that systemd-resolved
// asks.
std::vector<netplumb::IpAddress> host_resolvers();

}  // namespace granary::agent
