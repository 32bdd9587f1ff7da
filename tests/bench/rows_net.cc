// SPDX-License-Identifier: Apache-2.0
// What it costs to put a microVM into the place of a pod's network interface. No KVM is needed.
#include "netplumb/attach.h"
#include "tests/bench/pod_network.h"
#include "tests/bench/rows.h"

namespace granary::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

Result<std::vector<Row>> attach_and_detach(const Settings& settings) {
  Row attach{"net_attach", "none",
             "us",         "a namespace's path -> tap, redirection, configuration read; one veth, dual stack",
             {},           ""};
  Row guarded{"net_attach_guarded", "none", "us", "the same with anti_spoofing", {}, ""};
  Row detach{"net_detach", "none", "us", "the same namespace -> tap and qdiscs gone; off the path of a hand-over",
             {},           ""};
  const PodNetwork pod;
  (void)GRANARY_TRY(pod.open());
  for (unsigned i = 0; i < settings.n; ++i) {
    for (const auto& [frames, row] : {std::pair(netplumb::Frames::kAny, &attach), {netplumb::Frames::kOwn, &guarded}}) {
      const auto start = SteadyClock::now();
      const Fd netns = GRANARY_TRY(pod.open());
      const netplumb::Attachment made = GRANARY_TRY(netplumb::attach(netns.get(), pod.path(), 2, frames));
      row->samples.push_back(microseconds(SteadyClock::now() - start));
      const auto end = SteadyClock::now();
      GRANARY_TRY(netplumb::detach(netns.get(), pod.path()));
      if (row == &attach) detach.samples.push_back(microseconds(SteadyClock::now() - end));
    }
  }
  return std::vector<Row>{std::move(attach), std::move(guarded), std::move(detach)};
}

}  // namespace

std::vector<RowSpec> net_rows(const Settings& settings) {
  return {{"net_attach", "none", [&settings] { return attach_and_detach(settings); }}};
}

}  // namespace granary::bench
