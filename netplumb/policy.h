// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>

#include "netplumb/allow_rule.h"
#include "netplumb/routed_network.h"

namespace granary::netplumb {

// What guests of a routed network may do, as text for nft(8): all of it in one table "inet granary", whose chains never
// change while guests come and go. A guest is an element of a few sets, and two small chains if it has rules of its
// own.
//
//   prerouting, before connection tracking: what comes from a tap is IPv4 with the MAC and IP address of its guest and
//   within its rate, or is dropped.
//   input: guests reach nothing of the host, but resolvers and what a rule names.
//   forward: to resolvers; where a rule of the guest's leads that lies within a denied network or names one host; to no
//   denied network; then, for a guest with rules, where these lead, for one without everywhere. To guests: answers.
//   postrouting: masquerade; within the guest's rate.
//
// Every function is pure.

// A guest that is there: `allow` empty: it may reach everything that is not denied.
using Guests = std::map<uint32_t, std::vector<AllowRule>>;

// Makes the table anew, in one transaction. `keeps_strangers_out`: the host forwards only since this network is there,
// so nothing else is forwarded; the chain "strangers" tells that from then on.
std::string table_text(const RoutedNetwork& network, const Guests& guests, bool keeps_strangers_out);
std::string remove_table_text();  // it may be absent

std::string add_guests_text(const RoutedNetwork& network, const Guests& guests);
std::string remove_guests_text(const RoutedNetwork& network, const Guests& guests);
// Of a guest that is there without rules.
std::string add_rules_text(uint32_t guest, const std::vector<AllowRule>& allow);

inline constexpr const char* kGuestsSet = "guests";    // elements: tap name, MAC address, IP address
inline constexpr const char* kDeniedSet = "denied";    // packets that a guest was denied, by tap name
inline constexpr const char* kLimitedSet = "limited";  // and that were over its rate, in either direction
inline constexpr const char* kStrangersChain = "strangers";
std::string list_set_text(const char* set);

// A feature of nf_tables that the table needs, and the kernel module that has it.
struct Feature {
  const char* module;
  std::string probe;  // a table that needs it and nothing else
};
std::span<const Feature> features();

}  // namespace granary::netplumb
