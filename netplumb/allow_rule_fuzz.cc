// SPDX-License-Identifier: Apache-2.0
// Any text is either a rule within its bounds or refused; what it becomes for nft holds nothing but what we wrote.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "netplumb/allow_rule.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto rule = granary::netplumb::parse_allow_rule({reinterpret_cast<const char*>(data), size});
  if (!rule) {
    const bool typed =
        rule.error().is(granary::Errc::kInvalidArgument) || rule.error().is(granary::Errc::kNotSupported);
    if (!typed || rule.error().context().size() > 400) std::abort();
    return 0;
  }
  if (rule->to.address.v6 || rule->to.length > 32 || rule->last_port < rule->first_port) std::abort();
  const std::string match = granary::netplumb::to_match(*rule);
  if (match.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789 ./-{,}") != std::string::npos) std::abort();
  return 0;
}
