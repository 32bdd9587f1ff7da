// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive/pricing.h"

#include <algorithm>
#include <cmath>

namespace granary::adaptive {

Plan plan_of(const std::vector<const Demand*>& situations, double price, uint32_t most) {
  Plan plan;
  for (const Demand* demand : situations) {
    const Choice choice = best_choice(*demand, price, most);
    plan.hits += choice.hits;
    plan.clone_seconds += choice.clones * demand->seconds;
  }
  return plan;
}

double price_for(const std::vector<const Demand*>& situations, double hits, uint32_t most) {
  constexpr int kHalvings = 16;
  double low = std::log(kLeastPrice);
  double high = std::log(kMostPrice);
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (low + high) / 2;
    (plan_of(situations, std::exp(middle), most).hits >= hits ? high : low) = middle;
  }
  return std::exp(high);
}

double seconds_of_one_size(const Demand& all, double hits, uint32_t most) {
  double seen = 0;
  double below = 0;
  for (size_t step = 0; step < all.asked.size() && clones_for(step + 1) <= most; ++step) {
    const double before = seen;
    seen += all.asked[step];
    const double seconds = clones_for(step + 1) * all.seconds;
    if (seen >= hits) return below + (seconds - below) * (hits - before) / std::max(seen - before, 1e-9);
    below = seconds;
  }
  return below;
}

}  // namespace granary::adaptive
