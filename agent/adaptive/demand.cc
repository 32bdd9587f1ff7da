// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive/demand.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace granary::adaptive {
namespace {

double gain_of(const Demand& demand, double price, double hits, uint32_t clones) {
  return (demand.seconds > 0 ? price * hits / demand.seconds : 0) - clones;
}

}  // namespace

size_t step_of(uint32_t outstanding) {
  if (outstanding < kExactSizes) return outstanding;
  const uint32_t octave = static_cast<uint32_t>(std::bit_width(outstanding)) - 7;  // 64: 0
  const uint32_t sixteenth = (outstanding >> (octave + 2)) - 16;
  return std::min<size_t>(kExactSizes + octave * 16 + sixteenth, kSteps - 1);
}

uint32_t clones_for(size_t step) {
  if (step < kExactSizes) return static_cast<uint32_t>(step);
  const auto beyond = static_cast<uint32_t>(step - kExactSizes);
  return (16 + beyond % 16) << (beyond / 16 + 2);
}

void Demand::ask(uint32_t outstanding, double acquires) {
  const size_t step = step_of(outstanding);
  if (asked.size() <= step) asked.resize(step + 1);
  asked[step] += static_cast<float>(acquires);
}

void Demand::add(const Demand& other) {
  seconds += other.seconds;
  if (asked.size() < other.asked.size()) asked.resize(other.asked.size());
  for (size_t step = 0; step < other.asked.size(); ++step) asked[step] += other.asked[step];
}

void Demand::fade(double factor) {
  constexpr float kNothing = 1e-3F;
  seconds *= factor;
  for (float& n : asked) n *= static_cast<float>(factor);
  while (!asked.empty() && asked.back() < kNothing) asked.pop_back();
}

double Demand::total() const {
  double sum = 0;
  for (const float n : asked) sum += n;
  return sum;
}

Demand poisson_demand(double rate, double refill_seconds, double acquires) {
  Demand demand;
  if (rate <= 0) return demand;
  const double mean = rate * refill_seconds;
  demand.seconds = acquires / rate;
  const double most = std::min<double>(mean + 8 * std::sqrt(mean) + 8, clones_for(kSteps - 1));
  // In logarithms: exp(-mean) alone would be 0 for a busy pool.
  for (uint32_t n = 0; n < most; ++n) {
    demand.ask(n, acquires * std::exp(n * std::log(std::max(mean, 1e-12)) - mean - std::lgamma(n + 1.0)));
  }
  return demand;
}

Choice best_choice(const Demand& demand, double price, uint32_t most) {
  Choice best;
  double hits = 0;
  for (size_t step = 0; step < demand.asked.size() && clones_for(step + 1) <= most; ++step) {
    hits += demand.asked[step];
    const uint32_t clones = clones_for(step + 1);
    const double gain = gain_of(demand, price, hits, clones);
    if (gain > best.gain) best = {.clones = clones, .hits = hits, .gain = gain};
  }
  return best;
}

Choice choice_of(const Demand& demand, double price, uint32_t clones) {
  double hits = 0;
  for (size_t step = 0; step < demand.asked.size() && clones_for(step + 1) <= clones; ++step)
    hits += demand.asked[step];
  return {.clones = clones, .hits = hits, .gain = gain_of(demand, price, hits, clones)};
}

std::vector<float> worth_of(const Demand& demand, uint32_t clones) {
  std::vector<float> worth;
  while (worth.size() < clones) {
    const auto from = static_cast<uint32_t>(worth.size());
    double best = 0;
    uint32_t until = clones;
    double hits = 0;
    for (size_t step = step_of(from); step < demand.asked.size() && clones_for(step + 1) <= clones; ++step) {
      hits += demand.asked[step];
      const uint32_t reached = clones_for(step + 1);
      const double mean = hits / (reached - from);
      if (mean > best) {
        best = mean;
        until = reached;
      }
    }
    worth.resize(until, demand.seconds > 0 ? static_cast<float>(best / demand.seconds) : 0);
  }
  return worth;
}

}  // namespace granary::adaptive
