// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/network_check.h"

#include <net/if.h>

#include <algorithm>
#include <set>

namespace granary::guest {
namespace {

constexpr size_t kIpv4Bytes = 4;
constexpr size_t kIpv6Bytes = 16;
constexpr size_t kMacBytes = 6;
constexpr uint32_t kMinMtu = 68;  // RFC 791
constexpr uint32_t kMaxMtu = 65535;
constexpr int kMaxNextHops = 64;  // their attribute's length has 16 bits
constexpr uint32_t kMaxWeight = 256;
constexpr int kMaxNameservers = 3;  // resolv.conf(5)

// One item of a network, for its errors: "route 3".
class Item {
 public:
  Item(const char* kind, int index) : name_(std::string("network: ") + kind + " " + std::to_string(index)) {}

  [[nodiscard]] Error error(const std::string& what) const { return {Errc::kInvalidArgument, name_ + ": " + what}; }
  [[nodiscard]] Status at_most(const char* field, uint64_t value, uint64_t limit) const {
    if (value <= limit) return ok();
    return error(std::string(field) + " " + std::to_string(value) + ", at most " + std::to_string(limit));
  }
  [[nodiscard]] Status bytes(const char* field, const std::string& value, size_t wanted) const {
    if (value.size() == wanted) return ok();
    return error(std::string(field) + " of " + std::to_string(value.size()) + " bytes, expected " +
                 std::to_string(wanted));
  }
  [[nodiscard]] Status address(const char* field, const std::string& value) const {
    if (value.size() == kIpv4Bytes || value.size() == kIpv6Bytes) return ok();
    return error(std::string(field) + " of " + std::to_string(value.size()) + " bytes, expected 4 or 16");
  }
  // An address that may be left out, of the same family as another.
  [[nodiscard]] Status like(const char* field, const std::string& value, const std::string& other) const {
    return value.empty() ? ok() : bytes(field, value, other.size());
  }
  [[nodiscard]] Status prefix(const char* field, const v1::Prefix& value) const {
    GRANARY_TRY(address(field, value.address()));
    return at_most("prefix length", value.length(), 8 * value.address().size());
  }
  [[nodiscard]] Status link(uint32_t index, int links) const {
    if (index < static_cast<uint32_t>(links)) return ok();
    return error("link " + std::to_string(index) + ", but there are " + std::to_string(links));
  }
  [[nodiscard]] Status mac(const std::string& value) const {
    GRANARY_TRY(bytes("mac", value, kMacBytes));
    const bool is_zero = std::all_of(value.begin(), value.end(), [](char c) { return c == 0; });
    if (is_zero || (value[0] & 1) != 0) return error("mac is zero or a group's");
    return ok();
  }
  // What the kernel takes (dev_valid_name()), without the templates that it would expand.
  [[nodiscard]] Status name(const std::string& value) const {
    const auto refused = [](char c) { return c <= ' ' || c > '~' || c == '/' || c == ':' || c == '%'; };
    if (!value.empty() && value.size() < IFNAMSIZ && value != "." && value != ".." &&
        std::none_of(value.begin(), value.end(), refused)) {
      return ok();
    }
    return error("name \"" + value.substr(0, 40) + "\": 1 to 15 printable characters but / : % are allowed");
  }

 private:
  std::string name_;
};

Status check(const Item& item, const v1::Link& link, std::set<std::string>& names) {
  GRANARY_TRY(item.name(link.name()));
  if (link.name() == "lo" || !names.insert(link.name()).second) {
    return item.error("the name " + link.name() + " is taken");
  }
  if (!link.mac().empty()) GRANARY_TRY(item.mac(link.mac()));
  if (link.mtu() != 0 && (link.mtu() < kMinMtu || link.mtu() > kMaxMtu)) {
    return item.error("mtu " + std::to_string(link.mtu()) + ", allowed are 68 to 65535");
  }
  return ok();
}

Status check(const Item& item, const v1::Address& address, int links) {
  GRANARY_TRY(item.link(address.link(), links));
  GRANARY_TRY(item.address("local", address.local()));
  GRANARY_TRY(item.at_most("prefix length", address.prefix_length(), 8 * address.local().size()));
  GRANARY_TRY(item.like("peer", address.peer(), address.local()));
  if (!address.broadcast().empty()) GRANARY_TRY(item.bytes("broadcast", address.broadcast(), kIpv4Bytes));
  GRANARY_TRY(item.like("broadcast", address.broadcast(), address.local()));
  return item.at_most("scope", address.scope(), UINT8_MAX);
}

Status check(const Item& item, const v1::Neighbour& neighbour, int links) {
  GRANARY_TRY(item.link(neighbour.link(), links));
  GRANARY_TRY(item.address("address", neighbour.address()));
  return item.mac(neighbour.mac());
}

Status check(const Item& item, const v1::NextHop& hop, int links) {
  if (hop.has_link()) GRANARY_TRY(item.link(hop.link(), links));
  if (!hop.gateway().empty()) GRANARY_TRY(item.address("gateway", hop.gateway()));
  if (hop.weight() == 0) return item.error("weight 0, at least 1");
  return item.at_most("weight", hop.weight(), kMaxWeight);
}

Status check(const Item& item, const v1::Route& route, int links) {
  GRANARY_TRY(item.prefix("destination", route.destination()));
  if (route.next_hops().empty()) return item.error("no next hop");
  GRANARY_TRY(item.at_most("next hops", static_cast<uint64_t>(route.next_hops_size()), kMaxNextHops));
  for (const v1::NextHop& hop : route.next_hops()) GRANARY_TRY(check(item, hop, links));
  GRANARY_TRY(item.like("source", route.source(), route.destination().address()));
  GRANARY_TRY(item.at_most("type", route.type(), UINT8_MAX));
  GRANARY_TRY(item.at_most("scope", route.scope(), UINT8_MAX));
  return item.at_most("protocol", route.protocol(), UINT8_MAX);
}

Status check(const Item& item, const v1::Rule& rule) {
  const size_t bytes = rule.v6() ? kIpv6Bytes : kIpv4Bytes;
  for (const auto& [field, has, prefix] :
       {std::tuple("from", rule.has_from(), &rule.from()), std::tuple("to", rule.has_to(), &rule.to())}) {
    if (!has) continue;
    GRANARY_TRY(item.bytes(field, prefix->address(), bytes));
    GRANARY_TRY(item.prefix(field, *prefix));
  }
  if (!rule.input_link().empty()) GRANARY_TRY(item.name(rule.input_link()));
  if (!rule.output_link().empty()) GRANARY_TRY(item.name(rule.output_link()));
  return item.at_most("action", rule.action(), UINT8_MAX);
}

template <class Items, class... Rest>
Status check_all(const char* kind, const Items& items, Rest&&... rest) {
  for (int i = 0; i < items.size(); ++i) GRANARY_TRY(check(Item(kind, i), items[i], rest...));
  return ok();
}

}  // namespace

Status check_network(const v1::Network& network) {
  std::set<std::string> names;
  const int links = network.links_size();
  GRANARY_TRY(check_all("link", network.links(), names));
  GRANARY_TRY(check_all("address", network.addresses(), links));
  GRANARY_TRY(check_all("neighbour", network.neighbours(), links));
  GRANARY_TRY(check_all("route", network.routes(), links));
  GRANARY_TRY(check_all("rule", network.rules()));
  if (network.nameservers_size() > kMaxNameservers) {
    return Error(Errc::kInvalidArgument, "network: " + std::to_string(network.nameservers_size()) +
                                             " nameservers, at most " + std::to_string(kMaxNameservers));
  }
  for (int i = 0; i < network.nameservers_size(); ++i) {
    GRANARY_TRY(Item("nameserver", i).address("address", network.nameservers(i)));
  }
  return ok();
}

}  // namespace granary::guest
