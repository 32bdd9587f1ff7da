// SPDX-License-Identifier: Apache-2.0
#include "netplumb/policy.h"

#include <algorithm>
#include <array>

#include "netplumb/ip_text.h"

namespace granary::netplumb {
namespace {

const std::string kTable = "inet granary";
constexpr uint64_t kLeastBurst = 256 * 1024;  // bytes: a few packets that the guest's kernel left to be segmented

// What is neither the internet nor the host's business (RFC 1918, 6598, 6890, 5771, 1112); the guests' own network
// comes to it, whatever it is.
constexpr std::array kDenied = {"0.0.0.0/8",      "10.0.0.0/8",    "100.64.0.0/10", "127.0.0.0/8",
                                "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",  "192.168.0.0/16",
                                "198.18.0.0/15",  "224.0.0.0/4",   "240.0.0.0/4"};

Prefix prefix_of(const char* text) { return *parse_prefix(text); }

// Elements of an interval set must not overlap.
std::string denied_elements(const RoutedNetwork& network) {
  bool is_within = false;
  std::string text;
  for (const char* one : kDenied) {
    is_within = is_within || contains(prefix_of(one), network.subnet);
    if (contains(network.subnet, prefix_of(one))) continue;
    text += (text.empty() ? "" : ", ") + std::string(one);
  }
  return is_within ? text : text + ", " + to_text(network.subnet);
}

// A rule that a denial would not stop: it was meant, because it says no more than that.
bool is_exception(const AllowRule& rule) {
  return rule.to.length == 32 ||
         std::ranges::any_of(kDenied, [&](const char* one) { return contains(prefix_of(one), rule.to); });
}

std::string quoted(uint32_t guest) { return "\"" + tap_name(guest) + "\""; }
std::string exceptions_chain(uint32_t guest) { return "exceptions" + std::to_string(guest); }
std::string allowed_chain(uint32_t guest) { return "allowed" + std::to_string(guest); }

std::string rate(uint64_t bytes_per_second) {
  return " limit rate over " + std::to_string(bytes_per_second) + " bytes/second burst " +
         std::to_string(std::max(bytes_per_second / 4, kLeastBurst)) + " bytes";
}

// One line per set that the guest is an element of. `with`: also what the element carries.
std::string elements(const RoutedNetwork& network, uint32_t guest, const char* verb, bool with) {
  const std::string tap = quoted(guest);
  const auto line = [&](const char* set, const std::string& key, const std::string& carries) {
    return std::string(verb) + " element " + kTable + " " + set + " { " + key + (with ? carries : "") + " }\n";
  };
  std::string text = line(kDeniedSet, tap, " counter") + line(kLimitedSet, tap, " counter");
  if (network.up_bytes_per_second != 0) text += line("up", tap, rate(network.up_bytes_per_second));
  if (network.down_bytes_per_second != 0) text += line("down", tap, rate(network.down_bytes_per_second));
  text += line("connections", tap, " ct count over " + std::to_string(network.most_connections));
  // Last when it comes and first when it goes would matter if a transaction were not one.
  return text + line(kGuestsSet,
                     tap + " . " + to_text(mac_of(network, guest)) + " . " + to_text(address_of(network, guest)), "");
}

std::string rate_set(const char* name, uint64_t bytes_per_second) {
  if (bytes_per_second == 0) return {};
  return std::string("  set ") + name + " { type ifname;" + rate(bytes_per_second) + "; }\n";
}

std::string sets(const RoutedNetwork& network) {
  std::string resolvers;
  for (const IpAddress& one : network.resolvers) resolvers += (resolvers.empty() ? "" : ", ") + to_text(one);
  return "  set guests { type ifname . ether_addr . ipv4_addr; }\n"
         "  set denied { type ifname; counter; }\n"
         "  set limited { type ifname; counter; }\n" +
         rate_set("up", network.up_bytes_per_second) + rate_set("down", network.down_bytes_per_second) +
         "  set connections { type ifname; flags dynamic; size 16777216; }\n"
         "  set resolvers { type ipv4_addr;" +
         (resolvers.empty() ? "" : " elements = { " + resolvers + " }") + " }\n" +
         "  set forbidden { type ipv4_addr; flags interval; elements = { " + denied_elements(network) +
         " } }\n"
         "  map exceptions { type ifname : verdict; }\n"
         "  map allowed { type ifname : verdict; }\n";
}

std::string chains(const RoutedNetwork& network, bool keeps_strangers_out) {
  const auto only_if = [](bool is, const char* line) { return is ? std::string(line) : std::string(); };
  return "  chain deny { iifname @denied drop; drop; }\n"
         "  chain limit_up { iifname @limited drop; drop; }\n"
         "  chain limit_down { oifname @limited drop; drop; }\n"
         "  chain prerouting { type filter hook prerouting priority -300; policy accept;\n"
         "    iifname != \"granary*\" accept\n"
         "    meta nfproto != ipv4 goto deny\n"
         "    iifname . ether saddr . ip saddr != @guests goto deny\n" +
         only_if(network.up_bytes_per_second != 0, "    iifname @up goto limit_up\n") +
         "  }\n"
         "  chain input { type filter hook input priority 0; policy accept;\n"
         "    iifname != \"granary*\" accept\n"
         "    ct state established,related accept\n"
         "    iifname @connections goto deny\n"
         "    ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept\n"
         "    iifname vmap @exceptions\n"
         "    goto deny\n"
         "  }\n"
         "  chain from_guest {\n"
         "    ct state established,related accept\n"
         "    ct state invalid goto deny\n"
         "    iifname @connections goto deny\n"
         // As the guest addressed it: a resolver may be a service that the host translates.
         "    ct original ip daddr @resolvers meta l4proto { tcp, udp } ct original proto-dst 53 accept\n"
         "    iifname vmap @exceptions\n"
         "    ip daddr @forbidden goto deny\n"
         "    iifname vmap @allowed\n"
         "    accept\n"
         "  }\n" +
         only_if(keeps_strangers_out, "  chain strangers { drop; }\n") +
         "  chain forward { type filter hook forward priority 0; policy accept;\n"
         "    iifname \"granary*\" jump from_guest\n"
         "    oifname \"granary*\" ct state established,related accept\n"
         "    oifname \"granary*\" drop\n" +
         only_if(keeps_strangers_out, "    goto strangers\n") +
         "  }\n"
         "  chain postrouting { type filter hook postrouting priority 0; policy accept;\n" +
         only_if(network.down_bytes_per_second != 0, "    oifname @down goto limit_down\n") +
         "  }\n"
         "  chain source { type nat hook postrouting priority 100; policy accept;\n"
         "    iifname \"granary*\" oifname != \"granary*\" masquerade\n"
         "  }\n";
}

}  // namespace

std::string add_rules_text(uint32_t guest, const std::vector<AllowRule>& allow) {
  if (allow.empty()) return {};
  std::string exceptions;
  std::string others;
  for (const AllowRule& rule : allow) {
    std::string& into = is_exception(rule) ? exceptions : others;
    into += "    " + to_match(rule) + " accept\n";
  }
  return "table " + kTable + " {\n  chain " + exceptions_chain(guest) + " {\n" + exceptions + "  }\n  chain " +
         allowed_chain(guest) + " {\n" + others + "    goto deny\n  }\n}\nadd element " + kTable + " exceptions { " +
         quoted(guest) + " : jump " + exceptions_chain(guest) + " }\nadd element " + kTable + " allowed { " +
         quoted(guest) + " : goto " + allowed_chain(guest) + " }\n";
}

std::string add_guests_text(const RoutedNetwork& network, const Guests& guests) {
  std::string text;
  for (const auto& [guest, allow] : guests) {
    text += elements(network, guest, "add", true) + add_rules_text(guest, allow);
  }
  return text;
}

std::string remove_guests_text(const RoutedNetwork& network, const Guests& guests) {
  std::string text;
  for (const auto& [guest, allow] : guests) {
    text += elements(network, guest, "delete", false);
    if (allow.empty()) continue;
    text += "delete element " + kTable + " exceptions { " + quoted(guest) + " }\ndelete element " + kTable +
            " allowed { " + quoted(guest) + " }\ndelete chain " + kTable + " " + exceptions_chain(guest) +
            "\ndelete chain " + kTable + " " + allowed_chain(guest) + "\n";
  }
  return text;
}

std::string remove_table_text() { return "table " + kTable + "\ndelete table " + kTable + "\n"; }

std::string table_text(const RoutedNetwork& network, const Guests& guests, bool keeps_strangers_out) {
  return remove_table_text() + "table " + kTable + " {\n" + sets(network) + chains(network, keeps_strangers_out) +
         "}\n" + add_guests_text(network, guests);
}

std::string list_set_text(const char* set) { return "list set " + kTable + " " + set; }

std::span<const Feature> features() {
  const auto with = [](const std::string& content) { return "table inet granary-probe {\n" + content + "}\n"; };
  const std::string filter = "type filter hook forward priority 0; ";
  static const std::array all = {
      Feature{"nf_tables", with("")},
      Feature{"nf_conntrack, nft_ct", with("chain c { " + filter + "ct state new drop; }\n")},
      Feature{"nft_limit", with("set s { type ifname; limit rate over 1 bytes/second; }\n")},
      Feature{"nft_connlimit, nf_conncount",
              with("set s { type ifname; flags dynamic; size 2; elements = { \"x\" ct count over 1 } }\n")},
      Feature{"nft_chain_nat, nft_masq, nf_nat",
              with("chain c { type nat hook postrouting priority 100; oifname \"x\" masquerade; }\n")}};
  return all;
}

}  // namespace granary::netplumb
