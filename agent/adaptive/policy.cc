// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive/policy.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "agent/adaptive/pricing.h"

namespace granary::adaptive {
namespace {

constexpr int kLowestDoubling = -14;
constexpr int kStepsPerDoubling = 2;
constexpr double kFirstRefillSeconds = 0.5;  // until one was measured
constexpr double kFirstPrice = 600;
constexpr double kPriceEvery = 60;
constexpr double kFadeEvery = 600;
constexpr double kHalfLife = 86'400;
constexpr double kLongestGap = 60;
constexpr double kWarmUp = 600;  // seconds without experience, in which nothing goes below kFirstWish
constexpr uint32_t kFirstWish = 4;
constexpr double kPriorAcquires = 5;
constexpr double kEnoughAcquires = 50;
// Experience flatters what was chosen by it, so fewer misses are aimed at than are allowed, and fewer again when that
// was not enough.
constexpr double kMostAim = 0.75;
constexpr double kLeastAim = 0.25;
constexpr double kAimStep = 0.02;
// The part of the memory of one size for all that sizes of their own may take to be worth it; once they are, a little
// more.
constexpr double kWorthTelling = 0.85;
constexpr double kStillWorthTelling = 0.9;
constexpr double kChangeCost = 15;  // clone-seconds, for each clone that a size changes by
constexpr double kDeadBand = 0.1;   // clones
constexpr double kAhead = 10;       // seconds that a busy time is prepared before it begins
constexpr size_t kMostSince = 256;

}  // namespace

Policy::Policy(Learned learned) : learned_(std::move(learned)) {
  learned_.demands.resize(kSituations);
  hour_.restore(learned_.hour);
  day_.restore(learned_.day);
}

Learned Policy::learned() const {
  Learned learned = learned_;
  learned.hour = hour_.often();
  learned.day = day_.often();
  return learned;
}

void Policy::pass(double now) {
  if (now <= rates_at_) return;
  for (size_t i = 0; i < kAverages.size(); ++i) learned_.rates[i] *= std::exp((rates_at_ - now) / kAverages[i]);
  rates_at_ = now;
}

size_t Policy::situation(double wall) const {
  const double expected = *std::max_element(learned_.rates.begin() + 1, learned_.rates.end()) * refill_seconds_;
  const double step = expected > 0 ? std::floor((std::log2(expected) - kLowestDoubling) * kStepsPerDoubling) + 1 : 0;
  const auto busy = static_cast<size_t>(std::clamp(step, 0.0, static_cast<double>(kBusySteps - 1)));
  const size_t rises = learned_.rates[0] > learned_.rates[1] ? 1 : 0;
  const double ahead = kAhead + refill_seconds_;
  const bool busy_time = hour_.is_busy_within(wall, ahead) || day_.is_busy_within(wall, ahead);
  return (busy * 2 + rises) * 2 + (busy_time ? 1 : 0);
}

size_t Policy::situation_at(double when) {
  while (since_.size() > 1 && since_[1].when <= when) since_.pop_front();
  return since_.front().situation;
}

void Policy::asked(double now) {
  if (!started_) return;  // nobody has decided anything yet
  now = std::max(now, rates_at_);
  pass(now);
  const size_t credited = situation_at(now - refill_seconds_);
  learned_.demands[credited].ask(queue_.ask(now, refill_seconds_, concurrency_));
  for (size_t i = 0; i < kAverages.size(); ++i) learned_.rates[i] += 1 / kAverages[i];
  hour_.asked();
  day_.asked();
}

void Policy::refilled(double seconds) {
  constexpr double kWeight = 0.05;
  if (!(seconds >= 0)) return;
  seconds = std::clamp(seconds, kLeastRefillSeconds, kMostRefillSeconds);
  learned_.refill_seconds += (seconds - learned_.refill_seconds) * (learned_.refill_seconds > 0 ? kWeight : 1);
}

// With a few acquires of the simplest kind added, which say something sensible where nothing is known.
Demand Policy::experience(size_t situation) const {
  Demand demand = learned_.demands[situation];
  const size_t busy = situation / 4;
  if (busy == 0) return demand;
  const double expected = std::exp2((static_cast<double>(busy) - 0.5) / kStepsPerDoubling + kLowestDoubling);
  demand.add(poisson_demand(expected / refill_seconds_, refill_seconds_, kPriorAcquires));
  return demand;
}

void Policy::set_aim(double hit_target) {
  const double asked = learned_.hits + learned_.misses;
  if (learned_.aim <= 0) learned_.aim = kMostAim;
  if (asked < kEnoughAcquires) return;
  const bool too_many = learned_.misses > asked * (1 - hit_target);
  learned_.aim = std::clamp(learned_.aim * (too_many ? 1 - kAimStep : 1 + kAimStep), kLeastAim, kMostAim);
}

void Policy::set_price(const Look& look) {
  set_aim(look.hit_target);
  std::vector<const Demand*> situations;
  Demand all;
  for (const Demand& demand : learned_.demands) {
    if (demand.seconds < 1) continue;
    situations.push_back(&demand);
    all.add(demand);
  }
  const double asked = all.total();
  if (asked < kEnoughAcquires) {
    learned_.price = kFirstPrice;
    learned_.tells_apart = true;
    return;
  }
  const double possible = choice_of(all, 0, look.most).hits;
  const double hits = std::min(possible, asked * (1 - (1 - look.hit_target) * learned_.aim));
  learned_.price = price_for(situations, hits, look.most);
  learned_.steady = best_choice(all, price_for({&all}, hits, look.most), look.most).clones;
  const Plan apart = plan_of(situations, learned_.price, look.most);
  // Each has a number of its own, which fits past chance too: a hit less for each.
  const double proven = std::max(0.0, apart.hits - static_cast<double>(situations.size()));
  const double part = learned_.tells_apart ? kStillWorthTelling : kWorthTelling;
  learned_.tells_apart = apart.clone_seconds < part * seconds_of_one_size(all, proven, look.most);
}

Policy::Wanted Policy::wanted(const Look& look, size_t situation, const Demand& demand, uint32_t current) const {
  const Choice best = best_choice(demand, learned_.price, look.most);
  Wanted result{.clones = best.clones, .gain = best.gain - choice_of(demand, learned_.price, current).gain - kDeadBand};
  const Demand& seen = learned_.demands[situation];
  const bool known = seen.seconds > kWarmUp || seen.total() > kEnoughAcquires;
  if (!learned_.tells_apart && (known || learned_.steady >= best.clones)) {
    result = {.clones = learned_.steady, .gain = std::abs(static_cast<double>(current) - learned_.steady)};
  }
  if (rates_at_ - started_at_ < kWarmUp) result.clones = std::max(result.clones, kFirstWish);
  result.clones = std::clamp(result.clones, look.min, look.most);
  return result;
}

uint32_t Policy::step_towards(const Wanted& wanted, uint32_t current, double passed) {
  const bool excess = wanted.clones < current;
  if (wanted.clones == current || excess != regrets_excess_) regret_ = 0;
  regrets_excess_ = excess;
  regret_ = std::max(0.0, regret_ + wanted.gain * passed);
  if (regret_ < kChangeCost * std::abs(static_cast<double>(current) - wanted.clones)) return current;
  if (excess) return std::max(wanted.clones, current - std::max(current / 4, 1U));
  return std::min(wanted.clones, current + std::max(current, kFirstWish));
}

void Policy::start(const Look& look, double now) {
  started_ = true;
  started_at_ = looked_at_ = rates_at_ = priced_at_ = faded_at_ = now;
  if (learned_.price > 0) {
    started_at_ -= kWarmUp;
  } else {
    learned_.wish = kFirstWish;
    learned_.price = kFirstPrice;
    learned_.tells_apart = true;
  }
  learned_.wish = std::clamp(learned_.wish, look.min, look.most);
}

void Policy::learn(const Look& look, double passed) {
  if (!since_.empty()) learned_.demands[since_.back().situation].seconds += passed;
  learned_.hits += static_cast<double>(look.hits);
  learned_.misses += static_cast<double>(look.misses);
  hour_.look(look.wall, learned_.rates.back());
  day_.look(look.wall, learned_.rates.back());
  if (looked_at_ - faded_at_ >= kFadeEvery) {
    const double factor = std::exp2(-std::min(looked_at_ - faded_at_, kHalfLife) / kHalfLife);
    for (Demand& demand : learned_.demands) demand.fade(factor);
    learned_.hits *= factor;
    learned_.misses *= factor;
    faded_at_ = looked_at_;
  }
  if (looked_at_ - priced_at_ >= kPriceEvery) {
    set_price(look);
    priced_at_ = looked_at_;
  }
}

Decision Policy::decide(const Look& look) {
  const double now = std::max(look.now, rates_at_);
  const bool is_first = !started_;
  if (is_first) start(look, now);
  concurrency_ = std::max(look.refill_concurrency, 1U);
  refill_seconds_ = learned_.refill_seconds > 0 ? learned_.refill_seconds : kFirstRefillSeconds;
  if (look.oldest_refill_seconds > refill_seconds_) {
    refill_seconds_ = std::min(look.oldest_refill_seconds, kMostRefillSeconds);
  }
  const double passed = std::clamp(now - looked_at_, 0.0, kLongestGap);
  looked_at_ = now;
  pass(now);
  learn(look, passed);
  const size_t here = situation(look.wall);
  if (since_.empty() || since_.back().situation != here) since_.push_back({now, here});
  if (since_.size() > kMostSince) since_.pop_front();
  const Demand demand = experience(here);
  const uint32_t current = std::clamp(std::min(learned_.wish, look.allowed), look.min, look.most);
  const uint32_t stepped = step_towards(wanted(look, here, demand, current), current, passed);
  Decision decision{.wish = std::clamp(stepped, look.min, look.most)};
  decision.changed = is_first || decision.wish != learned_.wish;
  if (decision.changed) decision.why = explain(look, here, decision.wish);
  decision.worth = worth_of(demand, decision.wish);
  learned_.wish = decision.wish;
  return decision;
}

std::string Policy::explain(const Look& look, size_t situation, uint32_t wish) const {
  const double rate = *std::max_element(learned_.rates.begin() + 1, learned_.rates.end());
  const double asked = learned_.hits + learned_.misses;
  const std::string change = wish == learned_.wish ? " to begin with" : " instead of " + std::to_string(learned_.wish);
  char text[320];
  std::snprintf(text, sizeof(text),
                "%u%s: %.3g acquires/s%s%s, a refill takes %.3g s; a hit is worth %.0f s of a clone%s", wish,
                change.c_str(), rate, situation / 2 % 2 != 0 ? " and rising" : "",
                situation % 2 != 0 ? ", a busy time of the hour or day" : "", refill_seconds_, learned_.price,
                learned_.tells_apart ? "" : " at any load");
  std::string why = text;
  if (asked >= 1) {
    std::snprintf(text, sizeof(text), "; %.2f %% hits lately", 100 * learned_.hits / asked);
    why += text;
  }
  if (look.allowed < learned_.wish) why += "; budgets and pressure left " + std::to_string(look.allowed);
  if (wish == look.most) why += "; no more is allowed";
  return why;
}

}  // namespace granary::adaptive
