// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "netplumb/routed_network.h"
#include "vmpool/base/fd.h"

namespace granary::netplumb {

// The taps of a routed network's guests, in the calling thread's network namespace, and what the host's stack needs
// beside them. Errors name the interface and the remedy.

// Makes for each guest a persistent tap that is up, routed to, and on which the host neither sends nor answers ARP nor
// has an IPv6 address. After an error those that were made stay: remove_taps() takes whatever is there.
Status make_taps(const RoutedNetwork& network, std::span<const uint32_t> guests);
// Opens one for a VMM; vmpool/virtio/net.h says what it can do. EBUSY: another one has it.
Result<Fd> open_tap(uint32_t guest);
// Takes taps away, all at once, because one costs what many do (a grace period of the kernel, some 20 ms). Absent ones
// are fine. Returns when they are gone.
Status remove_taps(std::span<const uint32_t> guests);
// Taps whose name is that of a guest.
Result<std::set<uint32_t>> find_taps();

// Since the tap was made; from the guest's point of view.
struct Traffic {
  uint64_t sent_bytes = 0;
  uint64_t sent_packets = 0;
  uint64_t received_bytes = 0;
  uint64_t received_packets = 0;
};
// ENODEV: it is gone.
Result<Traffic> traffic_of(uint32_t guest);

// A route of this namespace that leads to a part of `subnet` and is not ours: its destination, for an error.
Result<std::optional<Prefix>> find_overlap(const Prefix& subnet);
// A route that makes the subnet unreachable, for addresses that no guest has: they would go to the default gateway.
// There already: fine. Removal: true: removed, false: was absent.
Status add_subnet_route(const Prefix& subnet);
Result<bool> remove_subnet_route(const Prefix& subnet);
// Subnets of such routes, of whatever configuration.
Result<std::vector<Prefix>> find_subnet_routes();

Result<bool> forwards_ipv4();  // /proc/sys/net/ipv4/ip_forward
Status set_forwarding(bool on);

}  // namespace granary::netplumb
