// SPDX-License-Identifier: Apache-2.0
#include "agent/sim/simulate.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <random>

namespace granary::sim {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

class PoolModel {
 public:
  PoolModel(const Trace& trace, const Node& node, const Sizer& sizer)
      : trace_(trace), node_(node), sizer_(sizer), random_(node.seed), size_(sizer.first), warm_(sizer.first) {
    outcome_.name = sizer.name;
    outcome_.sizes.emplace_back(0, size_);
    waits_.reserve(trace.size() / 16);
  }

  Outcome run() {
    double next_tick = sizer_.look ? node_.tick_seconds : kNever;
    size_t next = 0;
    const double end = trace_.back();
    for (;;) {
      const double arrival = next < trace_.size() ? trace_[next] : kNever;
      const double done = next_done();
      const double now = std::min({arrival, done, next_tick});
      if (arrival == kNever && (waiting_.empty() || now > end + 3600)) break;
      pass(now);
      if (done <= now) {
        finish(now);
      } else if (arrival <= now) {
        ask(now);
        ++next;
      } else {
        look(now);
        next_tick += node_.tick_seconds;
      }
      refill(now);
    }
    return finish_outcome(end);
  }

 private:
  struct Restore {
    double begun;
    double done;
    bool hangs;
  };

  void pass(double now) {
    outcome_.clone_seconds += (static_cast<double>(warm_) + static_cast<double>(restores_.size())) * (now - now_);
    now_ = now;
  }
  [[nodiscard]] double next_done() const {
    double first = kNever;
    for (const Restore& restore : restores_) first = std::min(first, restore.done);
    return first;
  }
  double uniform() { return (static_cast<double>(random_() >> 11) + 0.5) * 0x1p-53; }

  void ask(double now) {
    if (sizer_.asked) sizer_.asked(now);
    ++outcome_.acquires;
    if (warm_ > 0) {
      --warm_;
      ++outcome_.hits;
    } else {
      waiting_.push_back(now);
    }
  }
  void finish(double now) {
    const auto done = std::ranges::min_element(restores_, {}, &Restore::done);
    const Restore restore = *done;
    restores_.erase(done);
    if (restore.hangs) return;
    if (sizer_.refilled) sizer_.refilled(now - restore.begun);
    if (!waiting_.empty()) {
      waits_.push_back(static_cast<float>(now - waiting_.front()));
      waiting_.pop_front();
    } else {
      ++warm_;
      evict();
    }
  }
  void evict() {
    while (warm_ > size_) {
      --warm_;
      ++outcome_.evictions;
    }
  }
  void look(double now) {
    double oldest = 0;
    for (const Restore& restore : restores_) oldest = std::max(oldest, now - restore.begun);
    const uint32_t wish = sizer_.look({.now = now,
                                       .target = size_,
                                       .warm = warm_,
                                       .restoring = static_cast<uint32_t>(restores_.size()),
                                       .hits = outcome_.hits - looked_hits_,
                                       .misses = outcome_.misses() - looked_misses_,
                                       .oldest_refill_seconds = oldest});
    looked_hits_ = outcome_.hits;
    looked_misses_ = outcome_.misses();
    if (wish == size_) return;
    const int direction = wish > size_ ? 1 : -1;
    ++outcome_.resizes;
    if (direction_ != 0 && direction != direction_) ++outcome_.reversals;
    direction_ = direction;
    size_ = wish;
    outcome_.sizes.emplace_back(now, size_);
    evict();
  }
  void refill(double now) {
    while (restores_.size() < node_.refill.concurrency && warm_ + restores_.size() < size_ + waiting_.size()) {
      const Refill& refill = node_.refill;
      const bool hangs = refill.hang_percent > 0 && uniform() * 100 < refill.hang_percent;
      double takes = refill.seconds;
      if (refill.spread_seconds > 0) takes -= refill.spread_seconds * std::log(uniform());
      restores_.push_back({.begun = now, .done = now + (hangs ? refill.timeout_seconds : takes), .hangs = hangs});
    }
  }
  Outcome finish_outcome(double end) {
    outcome_.seconds = std::max(now_, end);
    // Who was never served has waited until now.
    for (const double since : waiting_) waits_.push_back(static_cast<float>(now_ - since));
    std::ranges::sort(waits_);
    const auto percentile = [&](double share) {
      const auto rank = static_cast<uint64_t>(std::ceil(share * static_cast<double>(outcome_.acquires)));
      const uint64_t without = outcome_.acquires - waits_.size();
      return rank <= without ? 0.0 : static_cast<double>(waits_[std::min<uint64_t>(rank - without, waits_.size()) - 1]);
    };
    outcome_.wait_p50 = percentile(0.5);
    outcome_.wait_p99 = percentile(0.99);
    outcome_.wait_p999 = percentile(0.999);
    outcome_.wait_max = percentile(1);
    return std::move(outcome_);
  }

  const Trace& trace_;
  const Node& node_;
  const Sizer& sizer_;
  std::mt19937_64 random_;
  uint32_t size_;
  uint32_t warm_;
  int direction_ = 0;
  uint64_t looked_hits_ = 0;
  uint64_t looked_misses_ = 0;
  double now_ = 0;
  std::vector<Restore> restores_;
  std::deque<double> waiting_;
  std::vector<float> waits_;
  Outcome outcome_;
};

}  // namespace

Outcome simulate(const Trace& trace, const Node& node, const Sizer& sizer) {
  if (trace.empty()) return {.name = sizer.name};
  return PoolModel(trace, node, sizer).run();
}

}  // namespace granary::sim
