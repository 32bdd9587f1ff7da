// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "vmpool/guest/guest.pb.h"
#include "vmpool/guest/init/rtnetlink.h"

namespace granary::guest {

// An Ethernet card of this machine.
struct Card {
  int index = 0;  // ifindex
  std::string name;
};

// This machine's cards in the order of its devices, whatever order the kernel numbered them in.
Result<std::vector<Card>> find_cards();
// And after them every other link that has an Ethernet address, which clones of one template would share too: dummy0 of a
// kernel that makes one at boot.
Result<std::vector<Card>> find_ethernet_links();

// The requests that give `cards`, in this order, a network that check_network() found well: links (down, renamed; the
// name of a card without configuration gives way), addresses, links up, neighbours, routes (those without a gateway
// first: the others are resolved through them), rules. Addresses are always IFA_F_NOPREFIXROUTE, because the routes are
// those given and no others: CNI plugins delete the kernel's own. IPv6 addresses are IFA_F_NODAD: whoever gave them
// knows that they are free. kInvalidArgument: more links than cards.
Result<std::vector<NetlinkMessage>> network_requests(const v1::Network& network, std::span<const Card> cards);

// resolv.conf(5) with the network's nameservers; empty where it has none.
std::string resolv_conf(const v1::Network& network);

// Makes them. What is there already, of an attempt before, is made anew. Stops at the first that fails, with its name.
Status apply_network(const v1::Network& network, std::span<const Card> cards);

}  // namespace granary::guest
