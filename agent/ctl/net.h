// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "granary/v1/pool.pb.h"
#include "vmpool/base/result.h"

namespace CLI {
class App;
}

namespace granary::ctl {

// The network of a clone that is asked for: none, a namespace's place, or the agent's own.
struct NetOptions {
  std::string netns;
  bool own = false;
  std::vector<std::string> allow;
};

// --netns PATH, --net, --allow RULE (repeatable).
void define_net(CLI::App& command, NetOptions& options);
// kInvalidArgument for rules without --net. The agent checks the rules.
Status add_net(v1::AcquireRequest& request, const NetOptions& options);

}  // namespace granary::ctl
