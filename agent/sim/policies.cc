// SPDX-License-Identifier: Apache-2.0
#include "agent/sim/policies.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "agent/sizing.h"

namespace granary::sim {
namespace {

uint32_t allowed(const Node& node, const Limits& limits, uint32_t wish, uint32_t idle, std::vector<float> worth = {}) {
  const agent::PoolDemand demand{.size = wish,
                                 .min = std::min(limits.min, wish),
                                 .idle = idle,
                                 .clone_bytes = node.clone_bytes,
                                 .budget = limits.memory_budget,
                                 .worth = std::move(worth)};
  return agent::size_pools({&demand, 1}, std::nullopt, agent::PressureLevel::kNone)[0].idle;
}

class Autoscaler {
 public:
  Autoscaler(const Node& node, const Limits& limits) : node_(node), limits_(limits) {}

  uint32_t look(const Sight& sight) {
    constexpr double kPeriod = 15;
    constexpr double kTolerance = 0.1;
    constexpr double kInUse = 0.5;
    used_ += sight.target > 0 ? 1 - std::min(1.0, static_cast<double>(sight.warm) / sight.target) : 1;
    ++looks_;
    if (sight.now - decided_ < kPeriod) return sight.target;
    const double ratio = used_ / looks_ / kInUse;
    const double current = std::max(sight.target, 1U);
    const double raw = std::abs(ratio - 1) <= kTolerance ? current : std::ceil(current * ratio);
    decided_ = sight.now;
    used_ = 0;
    looks_ = 0;
    const double least = std::max(limits_.min, 1U);
    const double most = limits_.size;
    const auto wish = static_cast<uint32_t>(std::clamp(raw, std::min(least, most), most));
    return allowed(node_, limits_, stabilized(sight.now, wish), sight.warm + sight.restoring);
  }

 private:
  uint32_t stabilized(double now, uint32_t wish) {
    constexpr double kWindow = 300;
    while (!recent_.empty() && recent_.front().first < now - kWindow) recent_.pop_front();
    recent_.emplace_back(now, wish);
    return std::ranges::max(recent_, {}, [](const auto& one) { return one.second; }).second;
  }

  const Node node_;
  const Limits limits_;
  double decided_ = 0;
  double used_ = 0;
  int looks_ = 0;
  std::deque<std::pair<double, uint32_t>> recent_;
};

}  // namespace

Sizer fixed_sizer(const Node& node, const Limits& limits, uint32_t clones) {
  return {.name = "fixed(" + std::to_string(clones) + ")", .first = allowed(node, limits, clones, 0)};
}

Sizer adaptive_sizer(const Node& node, const Limits& limits, adaptive::Policy& policy) {
  const auto decide = [node, limits, &policy](const Sight& sight) {
    adaptive::Decision decision = policy.decide({.now = sight.now,
                                                 .wall = sight.now,
                                                 .min = limits.min,
                                                 .most = limits.size,
                                                 .refill_concurrency = node.refill.concurrency,
                                                 .hit_target = limits.hit_target,
                                                 .hits = sight.hits,
                                                 .misses = sight.misses,
                                                 .allowed = sight.now > 0 ? sight.target : UINT32_MAX,
                                                 .oldest_refill_seconds = sight.oldest_refill_seconds});
    return allowed(node, limits, decision.wish, sight.warm + sight.restoring, std::move(decision.worth));
  };
  const uint32_t first = decide({});
  return {.name = "adaptive",
          .first = first,
          .look = decide,
          .asked = [&policy](double now) { policy.asked(now); },
          .refilled = [&policy](double seconds) { policy.refilled(seconds); }};
}

Sizer autoscaler_sizer(const Node& node, const Limits& limits) {
  const auto state = std::make_shared<Autoscaler>(node, limits);
  return {.name = "autoscaler",
          .first = allowed(node, limits, std::clamp(4U, std::min(limits.min, limits.size), limits.size), 0),
          .look = [state](const Sight& sight) { return state->look(sight); }};
}

}  // namespace granary::sim
