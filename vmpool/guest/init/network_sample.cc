// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/network_sample.h"

#include <arpa/inet.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>

#include <cstring>

namespace granary::guest {
namespace {

v1::Address& add_address(v1::Network& network, uint32_t link, const char* local, uint32_t length) {
  v1::Address& address = *network.add_addresses();
  address.set_link(link);
  address.set_local(ip(local));
  address.set_prefix_length(length);
  return address;
}

v1::Route& add_route(v1::Network& network, const char* destination, uint32_t length, uint32_t table = RT_TABLE_MAIN) {
  v1::Route& route = *network.add_routes();
  route.mutable_destination()->set_address(ip(destination));
  route.mutable_destination()->set_length(length);
  route.set_table(table);
  route.set_type(RTN_UNICAST);
  route.set_protocol(RTPROT_STATIC);
  return route;
}

v1::NextHop& add_hop(v1::Route& route, uint32_t link, const char* gateway = nullptr, uint32_t weight = 1) {
  v1::NextHop& hop = *route.add_next_hops();
  hop.set_link(link);
  if (gateway != nullptr) hop.set_gateway(ip(gateway));
  hop.set_weight(weight);
  return hop;
}

}  // namespace

std::string ip(const char* text) {
  const bool v6 = std::strchr(text, ':') != nullptr;
  std::string bytes(v6 ? 16 : 4, '\0');
  ::inet_pton(v6 ? AF_INET6 : AF_INET, text, bytes.data());
  return bytes;
}

v1::Network sample_network() {
  v1::Network network;
  v1::Link& first = *network.add_links();
  first.set_name("eth0");
  first.set_mac("\x02\x11\x22\x33\x44\x55");
  first.set_mtu(1450);
  v1::Link& second = *network.add_links();
  second.set_name("net1");
  second.set_mtu(9000);

  add_address(network, 0, "10.7.0.2", 24).set_broadcast(ip("10.7.0.255"));
  add_address(network, 0, "fd07::2", 64);
  add_address(network, 1, "10.8.0.2", 32).set_peer(ip("10.8.0.1"));

  v1::Neighbour& gateway = *network.add_neighbours();
  gateway.set_address(ip("169.254.1.1"));
  gateway.set_mac("\x02\xee\xee\xee\xee\xee");

  // The way to a gateway comes after the route that needs it, as in a kernel's dump.
  v1::Route& fallback = add_route(network, "0.0.0.0", 0);
  fallback.set_metric(100);
  fallback.set_mtu(1400);
  fallback.set_mtu_locked(true);
  fallback.set_advertised_mss(1340);
  fallback.set_source(ip("10.7.0.2"));
  add_hop(fallback, 0, "169.254.1.1").set_onlink(true);
  v1::Route& to_gateway = add_route(network, "169.254.1.1", 32);
  to_gateway.set_scope(RT_SCOPE_LINK);
  add_hop(to_gateway, 0);
  v1::Route& subnet = add_route(network, "10.7.0.0", 24);
  subnet.set_scope(RT_SCOPE_LINK);
  subnet.set_source(ip("10.7.0.2"));
  add_hop(subnet, 0);
  v1::Route& nowhere = add_route(network, "10.9.0.0", 24);
  nowhere.set_type(RTN_UNREACHABLE);
  nowhere.add_next_hops()->set_weight(1);
  v1::Route& subnet6 = add_route(network, "fd07::", 64);
  subnet6.set_metric(256);
  add_hop(subnet6, 0);
  v1::Route& fallback6 = add_route(network, "::", 0);
  fallback6.set_metric(1024);
  fallback6.set_mtu(1300);
  add_hop(fallback6, 0, "fd07::1");
  v1::Route& both = add_route(network, "10.10.0.0", 16, 1000);
  add_hop(both, 0, "10.7.0.1");
  add_hop(both, 1, "10.8.0.1", 3).set_onlink(true);

  v1::Rule& from = *network.add_rules();
  from.set_priority(512);
  from.mutable_from()->set_address(ip("10.8.0.2"));
  from.mutable_from()->set_length(32);
  from.set_table(1000);
  from.set_action(FR_ACT_TO_TBL);
  v1::Rule& marked = *network.add_rules();
  marked.set_v6(true);
  marked.set_priority(513);
  marked.set_mark(0x80);
  marked.set_mark_mask(0xff);
  marked.set_input_link("net1");
  marked.set_invert(true);
  marked.set_table(254);
  marked.set_action(FR_ACT_TO_TBL);
  return network;
}

}  // namespace granary::guest
