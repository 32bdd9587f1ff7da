// SPDX-License-Identifier: Apache-2.0
#include "netplumb/routed_network.h"

#include <linux/rtnetlink.h>

#include <charconv>

#include "netplumb/ip_text.h"

namespace granary::netplumb {
namespace {

constexpr std::string_view kTapPrefix = "granary";
constexpr uint32_t kMostGuests = 99'999'999;  // that a name has room for; a subnet of /8 has fewer

}  // namespace

uint32_t last_guest(const RoutedNetwork& network) { return (1U << (32 - network.subnet.length)) - 2; }

std::string tap_name(uint32_t guest) { return std::string(kTapPrefix) + std::to_string(guest); }

std::optional<uint32_t> guest_of(const std::string& tap) {
  if (!tap.starts_with(kTapPrefix)) return std::nullopt;
  uint32_t guest = 0;
  const char* const end = tap.data() + tap.size();
  const auto [rest, error] = std::from_chars(tap.data() + kTapPrefix.size(), end, guest);
  if (error != std::errc() || rest != end || guest < kFirstGuest || guest > kMostGuests) return std::nullopt;
  return tap_name(guest) == tap ? std::optional(guest) : std::nullopt;  // not granary007
}

IpAddress address_of(const RoutedNetwork& network, uint32_t guest) {
  return to_address(to_number(network.subnet.address) + guest);
}

IpAddress gateway_of(const RoutedNetwork& network) { return address_of(network, 1); }

// Locally administered (IEEE 802, bit 1 of the first byte), the address in the last four.
MacAddress mac_of(const RoutedNetwork& network, uint32_t guest) {
  const IpAddress address = address_of(network, guest);
  return {0x02, 0x67, address.bytes[0], address.bytes[1], address.bytes[2], address.bytes[3]};
}

MacAddress gateway_mac() { return {0x02, 0x67, 0, 0, 0, 1}; }

NetworkConfig config_of(const RoutedNetwork& network, uint32_t guest) {
  const IpAddress gateway = gateway_of(network);
  Route to_gateway{.destination = {gateway, 32}, .next_hops = {{.link = 0, .gateway = {}}}, .source = {}};
  to_gateway.table = RT_TABLE_MAIN;
  to_gateway.type = RTN_UNICAST;
  to_gateway.scope = RT_SCOPE_LINK;
  to_gateway.protocol = RTPROT_STATIC;
  Route everywhere = to_gateway;
  everywhere.destination = {};
  everywhere.next_hops = {{.link = 0, .gateway = gateway}};
  everywhere.scope = RT_SCOPE_UNIVERSE;
  return {.links = {{.name = "eth0", .mac = mac_of(network, guest), .mtu = network.mtu}},
          .addresses = {{.link = 0,
                         .local = address_of(network, guest),
                         .prefix_length = 32,
                         .peer = {},
                         .broadcast = {},
                         .scope = RT_SCOPE_UNIVERSE}},
          .neighbours = {{.link = 0, .address = gateway, .mac = gateway_mac()}},
          .routes = {std::move(to_gateway), std::move(everywhere)},
          .rules = {}};
}

}  // namespace granary::netplumb
