// SPDX-License-Identifier: Apache-2.0
#include "agent/network_message.h"

namespace granary::agent {
namespace {

std::string bytes_of(const netplumb::IpAddress& address) {
  return {reinterpret_cast<const char*>(address.bytes.data()), address.v6 ? size_t{16} : size_t{4}};
}
std::string bytes_of(const std::optional<netplumb::IpAddress>& address) {
  return address ? bytes_of(*address) : std::string();
}
std::string bytes_of(const netplumb::MacAddress& mac) { return {mac.begin(), mac.end()}; }

void put(const netplumb::Prefix& prefix, guest::v1::Prefix& out) {
  out.set_address(bytes_of(prefix.address));
  out.set_length(prefix.length);
}

void put(const netplumb::Route& route, guest::v1::Route& out) {
  put(route.destination, *out.mutable_destination());
  for (const netplumb::NextHop& hop : route.next_hops) {
    guest::v1::NextHop& added = *out.add_next_hops();
    if (hop.link) added.set_link(*hop.link);
    added.set_gateway(bytes_of(hop.gateway));
    added.set_onlink(hop.onlink);
    added.set_weight(hop.weight);
  }
  out.set_source(bytes_of(route.source));
  out.set_table(route.table);
  out.set_type(route.type);
  out.set_scope(route.scope);
  out.set_protocol(route.protocol);
  out.set_metric(route.metric);
  out.set_mtu(route.mtu);
  out.set_mtu_locked(route.mtu_locked);
  out.set_advertised_mss(route.advertised_mss);
}

void put(const netplumb::Rule& rule, guest::v1::Rule& out) {
  out.set_v6(rule.v6);
  out.set_priority(rule.priority);
  if (rule.from) put(*rule.from, *out.mutable_from());
  if (rule.to) put(*rule.to, *out.mutable_to());
  out.set_table(rule.table);
  out.set_action(rule.action);
  out.set_mark(rule.mark);
  out.set_mark_mask(rule.mark_mask);
  out.set_input_link(rule.input_link);
  out.set_output_link(rule.output_link);
  out.set_invert(rule.invert);
}

}  // namespace

guest::v1::Network to_message(const netplumb::NetworkConfig& config) {
  guest::v1::Network out;
  for (const netplumb::Link& link : config.links) {
    guest::v1::Link& added = *out.add_links();
    added.set_name(link.name);
    added.set_mac(bytes_of(link.mac));
    added.set_mtu(link.mtu);
  }
  for (const netplumb::Address& address : config.addresses) {
    guest::v1::Address& added = *out.add_addresses();
    added.set_link(address.link);
    added.set_local(bytes_of(address.local));
    added.set_prefix_length(address.prefix_length);
    added.set_peer(bytes_of(address.peer));
    added.set_broadcast(bytes_of(address.broadcast));
    added.set_scope(address.scope);
  }
  for (const netplumb::Neighbour& neighbour : config.neighbours) {
    guest::v1::Neighbour& added = *out.add_neighbours();
    added.set_link(neighbour.link);
    added.set_address(bytes_of(neighbour.address));
    added.set_mac(bytes_of(neighbour.mac));
  }
  for (const netplumb::Route& route : config.routes) put(route, *out.add_routes());
  for (const netplumb::Rule& rule : config.rules) put(rule, *out.add_rules());
  return out;
}

}  // namespace granary::agent
