// SPDX-License-Identifier: Apache-2.0
#include "netplumb/allow_rule.h"

#include <algorithm>
#include <charconv>

#include "netplumb/ip_text.h"

namespace granary::netplumb {
namespace {

using Protocol = AllowRule::Protocol;

constexpr const char* kForm = "give [tcp:|udp:|icmp:]CIDR[:PORT[-PORT]], such as tcp:192.0.2.0/24:443";

Error refuse(std::string_view text, const std::string& why) {
  std::string shown(text.substr(0, 80));
  std::ranges::replace_if(
      shown, [](char c) { return c < ' ' || c > '~'; }, '?');
  return {Errc::kInvalidArgument, "allow rule \"" + shown + "\": " + why};
}

Protocol take_protocol(std::string_view& rest) {
  for (const auto& [name, protocol] : {std::pair<std::string_view, Protocol>{"tcp:", Protocol::kTcp},
                                       {"udp:", Protocol::kUdp},
                                       {"icmp:", Protocol::kIcmp}}) {
    if (!rest.starts_with(name)) continue;
    rest.remove_prefix(name.size());
    return protocol;
  }
  return Protocol::kAny;
}

// 1 to 65535; 0 for anything else.
uint16_t port(std::string_view text) {
  uint16_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : uint16_t{0};
}

}  // namespace

Result<AllowRule> parse_allow_rule(std::string_view text) {
  AllowRule rule;
  std::string_view rest = text;
  rule.protocol = take_protocol(rest);
  const size_t colon = rest.find(':');
  if (colon != std::string_view::npos && rest.find(':', colon + 1) != std::string_view::npos) {
    return Error(Errc::kNotSupported, refuse(text, "the network carries IPv4 only; give an IPv4 network").context());
  }
  const auto to = parse_prefix(rest.substr(0, colon));
  if (!to) return refuse(text, to.error().context() + "; " + kForm);
  rule.to = *to;
  if (colon == std::string_view::npos) return rule;
  if (rule.protocol == Protocol::kIcmp) return refuse(text, "ICMP has no ports; leave them out");
  const std::string_view ports = rest.substr(colon + 1);
  const size_t dash = ports.find('-');
  rule.first_port = port(ports.substr(0, dash));
  rule.last_port = dash == std::string_view::npos ? rule.first_port : port(ports.substr(dash + 1));
  if (rule.first_port == 0 || rule.last_port < rule.first_port) {
    return refuse(text, "ports are 1 to 65535, the lower one first; " + std::string(kForm));
  }
  return rule;
}

Result<std::vector<AllowRule>> parse_allow_rules(const std::vector<std::string>& texts) {
  if (texts.size() > kMaxAllowRules) {
    return Error(Errc::kInvalidArgument, std::to_string(texts.size()) + " allow rules; give at most " +
                                             std::to_string(kMaxAllowRules) + ", join networks and ports");
  }
  std::vector<AllowRule> rules;
  for (const std::string& text : texts) rules.push_back(GRANARY_TRY(parse_allow_rule(text)));
  return rules;
}

std::string to_match(const AllowRule& rule) {
  std::string match = "ip daddr " + to_text(rule.to);
  if (rule.protocol == Protocol::kIcmp) return match + " meta l4proto icmp";
  const bool any = rule.protocol == Protocol::kAny;
  if (any && rule.first_port == 0) return match;
  match += any                               ? " meta l4proto { tcp, udp }"
           : rule.protocol == Protocol::kTcp ? " meta l4proto tcp"
                                             : " meta l4proto udp";
  if (rule.first_port == 0) return match;
  match += " th dport " + std::to_string(rule.first_port);
  if (rule.last_port != rule.first_port) match += "-" + std::to_string(rule.last_port);
  return match;
}

}  // namespace granary::netplumb
