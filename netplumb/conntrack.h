// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>

#include "netplumb/network_config.h"
#include "vmpool/base/result.h"

namespace granary::netplumb {

// Forgets the IPv4 connections of the addresses that `is_one` names, at either end, in the calling thread's network namespace
// (ctnetlink), and returns how many. For an address that somebody else gets next: else what still comes for its last
// holder's connections would reach that one, and what the rules let them have would be open to it.
// ENOPROTOOPT, EINVAL and the like, naming the module: a kernel without nf_conntrack_netlink.
Result<size_t> forget_connections(const std::function<bool(const IpAddress& address)>& is_one);

}  // namespace granary::netplumb
