// SPDX-License-Identifier: Apache-2.0
// The networks of a PoolSet's clones: a pod's, or the agent's own.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "agent/log_text.h"
#include "agent/pool_set.h"

namespace granary::agent {
namespace {

constexpr size_t kMostReadyTaps = 1024;   // each is a descriptor

}  // namespace

// What is left to do once a clone that has a network is gone.
std::function<Status()> PoolSet::unwiring(const std::string& netns, const std::string& address) const {
  if (!netns.empty()) return [networks = &resources_.networks, netns] { return networks->unwire(netns); };
  OwnNetwork* const own = resources_.own_network;
  if (own == nullptr || address.empty()) return {};
  return [own, address] { return own->release(address); };
}

void PoolSet::give_up_network(const std::string& netns, const std::string& address) const {
  if (resources_.own_network != nullptr && !address.empty()) resources_.own_network->give_up(address);
  if (netns.empty()) return;
  if (const Status unwired = resources_.networks.give_up(netns); !unwired)
    spdlog::error("network is left error=\"{}\"", log_value(unwired.error().message()));
}

Status PoolSet::wire(const Wish& wish, const pool::PoolSettings& settings, pool::Attachments& into,
                     std::string& address) const {
  if (!wish.netns.empty()) {
    const Networks::Options options{.frames = settings.anti_spoofing ? netplumb::Frames::kOwn : netplumb::Frames::kAny,
                                    .forward_loopback = wish.forward_loopback};
    Networks::Wired wired =
        GRANARY_TRY(resources_.networks.wire(wish.netns, settings.shape.devices.net_slots, options));
    into.taps = std::move(wired.taps);
    into.network = std::move(wired.network);
  }
  if (wish.net) {
    if (resources_.own_network == nullptr) {
      return Error(Errc::kNotSupported, "this agent has no network of its own; set `network` in its configuration");
    }
    OwnNetwork::Wired wired = GRANARY_TRY(resources_.own_network->take(wish.net->allow));
    into.taps.push_back(std::move(wired.tap));
    into.network = std::move(wired.network);
    address = wired.address;
  }
  into.unwire = unwiring(wish.netns, address);
  return ok();
}

std::map<std::string, OwnNetwork::Use> PoolSet::network_use(const std::vector<Lease>& leases) const {
  std::vector<std::string> addresses;
  for (const Lease& lease : leases) {
    if (!lease.address.empty()) addresses.push_back(lease.address);
  }
  return resources_.own_network == nullptr ? std::map<std::string, OwnNetwork::Use>()
                                           : resources_.own_network->use_of(addresses);
}

// Every idle clone may be asked for with a network.
void PoolSet::keep_taps_ready() const {
  if (resources_.own_network == nullptr) return;
  size_t count = 0;
  for (const Member& member : members()) {
    const pool::PoolSettings settings = member.pool->settings();
    if (settings.shape.devices.net_slots > 0) count += settings.size;
  }
  resources_.own_network->keep_ready(std::min(count, kMostReadyTaps));
}

}  // namespace granary::agent
