// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/net.h"

#include <CLI/CLI.hpp>

namespace granary::ctl {

void define_net(CLI::App& command, NetOptions& options) {
  command.add_option("--netns", options.netns,
                     "the path of a configured network namespace, whose place the guest takes");
  command.add_flag("--net", options.own, "a card in the agent's own network: the internet, but no private addresses");
  command
      .add_option("--allow", options.allow,
                  "[tcp:|udp:|icmp:]CIDR[:PORT[-PORT]]: with --net, reach this and what else is allowed, nothing more; "
                  "may be repeated")
      ->allow_extra_args(false);
}

Status add_net(v1::AcquireRequest& request, const NetOptions& options) {
  request.set_netns(options.netns);
  if (!options.own && !options.allow.empty()) return Error(Errc::kInvalidArgument, "--allow: give --net, too");
  if (!options.own) return ok();
  v1::OwnNetwork& own = *request.mutable_own_network();
  for (const std::string& rule : options.allow) own.add_allow(rule);
  return ok();
}

}  // namespace granary::ctl
