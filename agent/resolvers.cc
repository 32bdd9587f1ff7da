// SPDX-License-Identifier: Apache-2.0
#include "agent/resolvers.h"

#include <algorithm>
#include <sstream>

#include "netplumb/ip_text.h"
#include "netplumb/routed_network.h"
#include "vmpool/base/fd.h"

namespace granary::agent {

std::vector<netplumb::IpAddress> parse_resolvers(std::string_view resolv_conf) {
  constexpr uint8_t kLoopback = 127;
  std::vector<netplumb::IpAddress> resolvers;
  std::istringstream lines{std::string(resolv_conf)};
  for (std::string line; std::getline(lines, line) && resolvers.size() < netplumb::kMaxResolvers;) {
    std::istringstream words(line);
    std::string key;
    std::string value;
    if (!(words >> key >> value) || key != "nameserver") continue;
    const auto address = netplumb::parse_address(value);
    if (!address || address->v6 || address->bytes[0] == kLoopback || netplumb::to_number(*address) == 0) continue;
    if (std::ranges::find(resolvers, *address) == resolvers.end()) resolvers.push_back(*address);
  }
  return resolvers;
}

std::vector<netplumb::IpAddress> host_resolvers() {
  for (const char* path : {"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}) {
    const auto text = read_file(path);
    if (!text) continue;
    auto resolvers = parse_resolvers(*text);
    if (!resolvers.empty()) return resolvers;
  }
  return {};
}

}  // namespace granary::agent
