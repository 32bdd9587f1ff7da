// SPDX-License-Identifier: Apache-2.0
#include "netplumb/ip_text.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

namespace granary::netplumb {
namespace {

constexpr size_t kLongestText = INET6_ADDRSTRLEN + 4;

unsigned bits_of(const IpAddress& address) { return address.v6 ? 128 : 32; }

Error refuse(std::string_view text, const char* remedy) {
  std::string shown(text.substr(0, 60));
  std::ranges::replace_if(
      shown, [](char c) { return c < ' ' || c > '~'; }, '?');
  return {Errc::kInvalidArgument, "\"" + shown + "\": " + remedy};
}

bool bit(const IpAddress& address, unsigned n) { return (address.bytes[n / 8] >> (7 - n % 8) & 1) != 0; }

}  // namespace

std::string to_text(const IpAddress& address) {
  char text[INET6_ADDRSTRLEN] = "";
  ::inet_ntop(address.v6 ? AF_INET6 : AF_INET, address.bytes.data(), text, sizeof(text));
  return text;
}

std::string to_text(const Prefix& prefix) { return to_text(prefix.address) + "/" + std::to_string(prefix.length); }

std::string to_text(const MacAddress& address) {
  char text[18];
  std::snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", address[0], address[1], address[2], address[3],
                address[4], address[5]);
  return text;
}

Result<IpAddress> parse_address(std::string_view text) {
  IpAddress address;
  if (text.size() < kLongestText && text.find('\0') == std::string_view::npos) {
    const std::string terminated(text);
    if (::inet_pton(AF_INET, terminated.c_str(), address.bytes.data()) == 1) return address;
    address.v6 = true;
    if (::inet_pton(AF_INET6, terminated.c_str(), address.bytes.data()) == 1) return address;
  }
  return refuse(text, "give an IP address, such as 192.0.2.1");
}

Result<Prefix> parse_prefix(std::string_view text) {
  constexpr const char* kRemedy = "give an IP address or a network, such as 192.0.2.1 or 192.0.2.0/24";
  const size_t slash = text.find('/');
  const auto address = parse_address(text.substr(0, slash));
  if (!address) return refuse(text, kRemedy);
  Prefix prefix{.address = *address, .length = static_cast<uint8_t>(bits_of(*address))};
  if (slash != std::string_view::npos) {
    unsigned length = 0;
    const char* const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + slash + 1, end, length);
    if (error != std::errc() || rest != end || length > bits_of(*address)) return refuse(text, kRemedy);
    prefix.length = static_cast<uint8_t>(length);
  }
  for (unsigned n = prefix.length; n < bits_of(*address); ++n) {
    if (bit(*address, n))
      return refuse(text, "bits are set behind the prefix; set them to 0, or give /32 (IPv6: /128)");
  }
  return prefix;
}

bool contains(const Prefix& outer, const Prefix& inner) {
  if (outer.address.v6 != inner.address.v6 || outer.length > inner.length) return false;
  for (unsigned n = 0; n < outer.length; ++n) {
    if (bit(outer.address, n) != bit(inner.address, n)) return false;
  }
  return true;
}

uint32_t to_number(const IpAddress& v4) {
  return static_cast<uint32_t>(v4.bytes[0]) << 24 | static_cast<uint32_t>(v4.bytes[1]) << 16 |
         static_cast<uint32_t>(v4.bytes[2]) << 8 | v4.bytes[3];
}

IpAddress to_address(uint32_t v4) {
  IpAddress address;
  for (unsigned n = 0; n < 4; ++n) address.bytes[n] = static_cast<uint8_t>(v4 >> (24 - 8 * n));
  return address;
}

}  // namespace granary::netplumb
