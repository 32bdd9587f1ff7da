// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vmpool/base/fd.h"

namespace granary::netplumb {

// Where connections arrive that redirect_loopback() turned round: listening, non-blocking sockets on 127.0.0.1 and ::1
// of the namespace, bound to its lo, so that nothing from outside reaches them whatever its addresses say. Without ::1
// where the namespace has no IPv6. EADDRINUSE: somebody else listens there; ENODEV: it has no lo that is up.
Result<std::vector<Fd>> listen_on_loopback(int netns, const std::string& netns_name, uint16_t port);

struct LoopbackDestination {
  uint16_t port = 0;
  bool v6 = false;
};
// Where the connection of an accepted socket was meant to go. kInvalidArgument: it came not by a redirection of
// loopback. SO_ORIGINAL_DST of linux/netfilter_ipv4.h, IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h.
Result<LoopbackDestination> original_destination(int socket);

}  // namespace granary::netplumb
