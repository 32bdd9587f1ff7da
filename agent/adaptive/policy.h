// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "agent/adaptive/demand.h"
#include "agent/adaptive/profile.h"
#include "agent/adaptive/refill_queue.h"

namespace granary::adaptive {

// A situation is what the pool looks like just now: how many outstanding refills the last acquires let expect, in 2
// steps per doubling from 2^-14 to 2^10 and one for less; whether that rises; and whether the time is one that was busy
// on other hours or days.
inline constexpr size_t kBusySteps = 1 + 24 * 2;
inline constexpr size_t kSituations = kBusySteps * 2 * 2;
// Seconds over which the rate of acquires is averaged, exponentially.
inline constexpr std::array<double, 5> kAverages = {1, 5, 60, 900, 7200};
inline constexpr double kLeastRefillSeconds = 1e-4;
inline constexpr double kMostRefillSeconds = 3600;
inline constexpr uint32_t kHourSlots = 720;  // of 5 s
inline constexpr uint32_t kDaySlots = 1440;  // of a minute

// What a policy has learned of one pool: plain numbers that survive the agent (learned_file.h).
struct Learned {
  std::vector<Demand> demands = std::vector<Demand>(kSituations);
  std::array<double, kAverages.size()> rates{};  // acquires per second
  std::vector<float> hour = {};                  // Profile::often()
  std::vector<float> day = {};
  double refill_seconds = 0;  // mean; 0: none measured yet
  double hits = 0;            // that there were, faded as demands are
  double misses = 0;
  double price = 0;          // clone-seconds that a hit is worth; 0: not known yet
  double aim = 0;            // part of the misses that are allowed which prices are made for; 0: not known yet
  uint32_t steady = 0;       // the size that suits all situations taken together
  bool tells_apart = false;  // situations differ enough for a size of their own
  uint32_t wish = 0;

  bool operator==(const Learned&) const = default;
};

// What the policy is told at each look.
struct Look {
  double now = 0;   // seconds, of the clock of asked()
  double wall = 0;  // seconds since 1970
  uint32_t min = 0;
  uint32_t most = 0;  // at least `min`
  uint32_t refill_concurrency = 1;
  double hit_target = 0.99;  // share of acquires that are to find a warm clone
  uint64_t hits = 0;         // since the last look
  uint64_t misses = 0;
  uint32_t allowed = UINT32_MAX;     // what budgets and pressure left of the last wish
  double oldest_refill_seconds = 0;  // age of the oldest refill that is under way
};

struct Decision {
  uint32_t wish = 0;              // idle clones, from Look::min to Look::most
  bool changed = false;           // it is not the one before
  std::string why = {};           // "busy, 3.2 acquires/s …": one line
  std::vector<float> worth = {};  // worth_of() these clones
};

// Says how many idle clones a pool should keep, from what was asked of it. Pure: time and observations are arguments,
// and the same ones give the same decisions. One thread. Bounded memory, bounded time per call.
//
// How it decides. RefillQueue tells for each acquire which sizes would have served it. Such experience is kept for each
// situation apart, credited to the one that was there a refill time before the acquire, when a decision could still
// have served it. In each situation the policy keeps the clones that bring more hits than they cost clone-seconds. The
// price of a hit is one for all situations, the lowest at which `hit_target` of the acquires would have been served: so
// no memory could be moved from one situation to another and bring more hits. Where situations tell nothing, all get
// one size.
//
// A change is made once what was lost without it outweighs its cost (ski rental): at once for a burst, never for noise.
// It grows at most to twice what it has, or by 4, at a look, and shrinks at most by a quarter. Clocks may jump: time
// that goes back counts as none, and a gap as a minute of the situation before it. docs/tuning.md has figures.
class Policy {
 public:
  explicit Policy(Learned learned = {});

  // An acquire was called.
  void asked(double now);
  // A clone was made, in so many seconds.
  void refilled(double seconds);
  Decision decide(const Look& look);
  [[nodiscard]] Learned learned() const;

 private:
  struct Since {
    double when;
    size_t situation;
  };
  struct Wanted {
    uint32_t clones;
    double gain;  // clone-seconds per second, against what is wished now
  };
  void pass(double now);
  void start(const Look& look, double now);
  void learn(const Look& look, double passed);
  [[nodiscard]] size_t situation(double wall) const;
  [[nodiscard]] size_t situation_at(double when);
  [[nodiscard]] Demand experience(size_t situation) const;
  void set_price(const Look& look);
  void set_aim(double hit_target);
  [[nodiscard]] Wanted wanted(const Look& look, size_t situation, const Demand& demand, uint32_t current) const;
  uint32_t step_towards(const Wanted& wanted, uint32_t current, double passed);
  [[nodiscard]] std::string explain(const Look& look, size_t situation, uint32_t wish) const;

  Learned learned_;
  RefillQueue queue_;
  Profile hour_{3600.0 / kHourSlots, kHourSlots};
  Profile day_{86'400.0 / kDaySlots, kDaySlots};
  std::deque<Since> since_;  // situations of the last refill time
  bool started_ = false;
  double started_at_ = 0;
  double looked_at_ = 0;
  double rates_at_ = 0;
  double priced_at_ = 0;
  double faded_at_ = 0;
  double refill_seconds_ = 0;
  uint32_t concurrency_ = 1;
  double regret_ = 0;  // clone-seconds lost since less, or more, was wanted than wished
  bool regrets_excess_ = false;
};

}  // namespace granary::adaptive
