// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "netplumb/network_config.h"
#include "vmpool/base/result.h"

namespace granary::netplumb {

std::string to_text(const IpAddress& address);   // 192.0.2.1, 2001:db8::1
std::string to_text(const Prefix& prefix);       // 192.0.2.0/24
std::string to_text(const MacAddress& address);  // 02:00:5e:10:00:00

// Numbers only, never a name. kInvalidArgument, naming the text and the remedy.
Result<IpAddress> parse_address(std::string_view text);
// "192.0.2.0/24", or an address alone, which is a prefix of its whole length. kInvalidArgument, also for bits that are
// set behind the prefix: then it is not clear which of the two is meant.
Result<Prefix> parse_prefix(std::string_view text);

// Whether every address of `inner` is one of `outer`.
bool contains(const Prefix& outer, const Prefix& inner);
inline bool overlap(const Prefix& a, const Prefix& b) { return contains(a, b) || contains(b, a); }

// IPv4 in host byte order.
uint32_t to_number(const IpAddress& v4);
IpAddress to_address(uint32_t v4);

}  // namespace granary::netplumb
