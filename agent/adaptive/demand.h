// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace granary::adaptive {

// Sizes are told apart one by one up to 64, then in 16 steps per doubling up to RefillQueue::kMost.
inline constexpr uint32_t kExactSizes = 64;
inline constexpr size_t kSteps = kExactSizes + 6 * 16 + 1;
// The step that an acquire which found `outstanding` refills belongs to.
size_t step_of(uint32_t outstanding);
// So many clones serve all of the steps before this one.
uint32_t clones_for(size_t step);

// What was asked for in one situation: for how long that lasted, and how many acquires found how many refills
// outstanding, by step. Old experience fades, so these are no whole numbers.
struct Demand {
  double seconds = 0;
  std::vector<float> asked = {};  // at most kSteps; zeros at its end are left out

  void ask(uint32_t outstanding, double acquires = 1);
  void add(const Demand& other);
  void fade(double factor);
  [[nodiscard]] double total() const;

  bool operator==(const Demand&) const = default;
};

// The demand of independent acquires at a steady rate per second: by Little's law and Palm's theorem the outstanding
// refills are then Poisson with mean rate × refill time. Of so many acquires.
Demand poisson_demand(double rate, double refill_seconds, double acquires);

// What a number of idle clones would have been worth.
struct Choice {
  uint32_t clones = 0;
  double hits = 0;  // of what was asked
  double gain = 0;  // clones: hits × price per second, less the clones
};
// Of at most `most` clones the number with the greatest gain, the least of several, when one hit is worth `price`
// clone-seconds.
Choice best_choice(const Demand& demand, double price, uint32_t most);
// The same for a number that is given.
Choice choice_of(const Demand& demand, double price, uint32_t clones);

// Hits per second that the first, second … of `clones` idle clones bring: on average over those up to a point where
// that is less, so that the list never rises and its sums at these points are right.
std::vector<float> worth_of(const Demand& demand, uint32_t clones);

}  // namespace granary::adaptive
