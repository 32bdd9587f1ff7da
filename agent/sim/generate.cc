// SPDX-License-Identifier: Apache-2.0
#include "agent/sim/generate.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

namespace granary::sim {
namespace {

// Only the engine is standard: the distributions of the library differ between implementations.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double uniform() { return (static_cast<double>(engine_() >> 11) + 0.5) * 0x1p-53; }  // never 0, never 1
  double exponential(double mean) { return -mean * std::log(uniform()); }
  double pareto(double least, double shape) { return least * std::pow(uniform(), -1 / shape); }
  double between(double least, double most) { return least + (most - least) * uniform(); }

 private:
  std::mt19937_64 engine_;
};

Trace steady(const Pattern& pattern, Random& random) {
  Trace trace;
  for (double t = 0; (t += random.exponential(1 / pattern.rate)) < pattern.hours * 3600;) trace.push_back(t);
  return trace;
}

// Thinned from the peak's rate.
Trace diurnal(const Pattern& pattern, Random& random) {
  constexpr double kNight = 0.05;
  const double peak = pattern.rate / ((1 + kNight) / 2);
  Trace trace;
  for (double t = 0; (t += random.exponential(1 / peak)) < pattern.hours * 3600;) {
    const double day = (1 - std::cos(2 * std::numbers::pi * t / 86'400)) / 2;
    if (random.uniform() < kNight + (1 - kNight) * day) trace.push_back(t);
  }
  return trace;
}

Trace bursty(const Pattern& pattern, Random& random) {
  constexpr double kBusy = 20;
  constexpr double kQuiet = 0.02;
  constexpr double kBurstSeconds = 40;
  const double quiet_seconds = kBurstSeconds * (kBusy - 1) / (1 - kQuiet);
  Trace trace;
  bool busy = false;
  for (double from = 0; from < pattern.hours * 3600; busy = !busy) {
    const double until =
        std::min(from + random.exponential(busy ? kBurstSeconds : quiet_seconds), pattern.hours * 3600);
    const double mean = 1 / (pattern.rate * (busy ? kBusy : kQuiet));
    for (double t = from; (t += random.exponential(mean)) < until;) trace.push_back(t);
    from = until;
  }
  return trace;
}

Trace cron(const Pattern& pattern, Random& random) {
  constexpr double kEvery = 300;
  Trace trace;
  for (double slot = 0; slot < pattern.hours * 3600; slot += kEvery) {
    const double mean = 0.9 * pattern.rate * kEvery;
    const auto jobs = static_cast<int>(random.between(0.5, 1.5) * mean);
    std::vector<double> times;
    for (int i = 0; i < jobs; ++i) times.push_back(slot + random.between(0, 1));
    for (double t = slot; (t += random.exponential(10 / pattern.rate)) < slot + kEvery;) times.push_back(t);
    std::sort(times.begin(), times.end());
    trace.insert(trace.end(), times.begin(), times.end());
  }
  return trace;
}

Trace heavy_tailed(const Pattern& pattern, Random& random) {
  constexpr double kGapShape = 1.3;
  constexpr double kGroupShape = 1.5;
  const double mean_group = kGroupShape / (kGroupShape - 1);
  const double least_gap = mean_group / pattern.rate * (kGapShape - 1) / kGapShape;
  Trace trace;
  for (double t = 0; (t += random.pareto(least_gap, kGapShape)) < pattern.hours * 3600;) {
    const auto group = static_cast<int>(std::min(random.pareto(1, kGroupShape), 1000.0));
    for (int i = 0; i < group; ++i) trace.push_back(t);
  }
  return trace;
}

}  // namespace

Result<Trace> generate(const Pattern& pattern) {
  const double expected = pattern.rate * pattern.hours * 3600;
  if (!(pattern.rate > 0) || !(pattern.hours > 0) || pattern.hours * 3600 > kMostSeconds || !(expected >= 1) ||
      expected > kMostAcquires / 2.0) {
    return Error(Errc::kInvalidArgument,
                 "rate and hours: give a rate above 0 and hours up to 8784 that make 1 to 10000000 acquires");
  }
  Random random(pattern.seed);
  const std::pair<const char*, Trace (*)(const Pattern&, Random&)> kinds[] = {
      {"steady", steady}, {"diurnal", diurnal}, {"bursty", bursty}, {"cron", cron}, {"heavy-tailed", heavy_tailed}};
  for (const auto& [kind, make] : kinds) {
    if (pattern.kind == kind) return make(pattern, random);
  }
  return Error(Errc::kInvalidArgument,
               "pattern \"" + pattern.kind.substr(0, 40) + "\": give steady, diurnal, bursty, cron or heavy-tailed");
}

}  // namespace granary::sim
