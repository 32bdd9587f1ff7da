// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "vmpool/pool/flight_record.h"

namespace granary::pool {

// What a pool measures. Seconds: one value per occurrence. The others count, with a label where one is named.
enum class Measure {
  kRestoreSeconds,   // template mapped and resumed
  kProbeSeconds,     // until the guest's answer
  kIdentitySeconds,  // unparked until its identity is acknowledged
  kMoveSeconds,      // at hand-over: its VMM into its owner's cgroup
  kAcquireSeconds,   // acquire called until the same
  kRefillSeconds,    // a clone for the pool: begun until it is warm
  kReclaimSeconds,   // given up until nothing is left
  kTemplateSeconds,  // a template built: power-on until it is kept
  kAcquires,         // "hit", "waited", "cold" (restored because of it), "failed"
  kRefills,          // "ok", "failed"
  kEvictions,        // idle clones given up; why: "template", "spawner", "size", "memory", "policy"
  kCloneFailures,    // in which state
  kVmmExits,         // "reclaimed", or how it ended by itself: an EndState
  kLeaks,            // resources that could not be proven gone
  kTemplateBuilds,   // "ok", "failed"
};

using Measured = std::function<void(Measure what, double value, const char* label)>;

// Told of what happens in a pool. Any thread, `measured` also under the pool's lock: be brief and do not call back.
struct PoolObserver {
  Measured measured = [](Measure, double, const char*) {};
  // An acquire is called that is right in itself.
  std::function<void()> asked = [] {};
  // A clone that failed or was lost, after its reclaim was tried.
  std::function<void(const FlightRecord&)> clone_failed = [](const FlightRecord&) {};
};

}  // namespace granary::pool
