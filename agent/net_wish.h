// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace granary::agent {

// That a clone gets a card in the agent's own network, and what it may reach there.
struct NetWish {
  std::vector<std::string> allow = {};  // netplumb/allow_rule.h; empty: everything that is not denied

  bool operator==(const NetWish&) const = default;
};

}  // namespace granary::agent
