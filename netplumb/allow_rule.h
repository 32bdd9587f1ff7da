// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "netplumb/network_config.h"
#include "vmpool/base/result.h"

namespace granary::netplumb {

// Something that a guest may reach although, or because, the rest is denied: "[tcp:|udp:|icmp:]CIDR[:PORT[-PORT]]", for
// instance "192.0.2.0/24", "tcp:192.0.2.1:443", "10.0.0.0/8:8000-8999" (then TCP and UDP).
struct AllowRule {
  enum class Protocol : uint8_t { kAny, kTcp, kUdp, kIcmp };
  Protocol protocol = Protocol::kAny;
  Prefix to;                // IPv4
  uint16_t first_port = 0;  // 0: every port
  uint16_t last_port = 0;
  friend bool operator==(const AllowRule&, const AllowRule&) = default;
};

inline constexpr size_t kMaxAllowRules = 256;  // of one guest

// kInvalidArgument, naming the text and the remedy; kNotSupported for IPv6, which the network does not carry.
Result<AllowRule> parse_allow_rule(std::string_view text);
// All of them, or the first error; kInvalidArgument also for more than kMaxAllowRules.
Result<std::vector<AllowRule>> parse_allow_rules(const std::vector<std::string>& texts);

// The rule as nft(8) writes it, without a verdict: "ip daddr 192.0.2.1/32 tcp dport 443".
std::string to_match(const AllowRule& rule);

}  // namespace granary::netplumb
