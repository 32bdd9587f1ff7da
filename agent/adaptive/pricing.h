// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "agent/adaptive/demand.h"

namespace granary::adaptive {

// Prices are clone-seconds per hit.
inline constexpr double kLeastPrice = 1;
inline constexpr double kMostPrice = 86'400;  // a clone is not kept for less than an acquire a day

// What all situations together come to.
struct Plan {
  double hits = 0;
  double clone_seconds = 0;
};
Plan plan_of(const std::vector<const Demand*>& situations, double price, uint32_t most);

// The lowest price at which so many hits are reached, or kMostPrice.
double price_for(const std::vector<const Demand*>& situations, double hits, uint32_t most);

// The least clone-seconds at which one size for all reaches so many hits, if it may change now and then between two
// sizes: a measure that credits situations only with what they tell, not with sizes being whole numbers.
double seconds_of_one_size(const Demand& all, double hits, uint32_t most);

}  // namespace granary::adaptive
