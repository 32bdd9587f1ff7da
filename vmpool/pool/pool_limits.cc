// SPDX-License-Identifier: Apache-2.0
// What a pool may have, and what it has.
#include "vmpool/pool/pool_impl.h"

namespace granary::pool {

Status Pool::Impl::resize(const PoolLimits& limits) {
  GRANARY_TRY(check_limits(settings_.name, limits));
  {
    const std::lock_guard lock(mutex_);
    if (draining_) return Error(Errc::kShuttingDown, "pool " + settings_.name);
    static_cast<PoolLimits&>(settings_) = limits;
    ++limits_version_;
    start_refill_threads();
    give_up_surplus();
  }
  work_cv_.notify_all();
  warm_cv_.notify_all();  // those who wait for a warm clone may have to be served otherwise
  return ok();
}

uint32_t Pool::Impl::allow(const PoolAllowance& allowance) {
  uint32_t given_up = 0;
  {
    const std::lock_guard lock(mutex_);
    const bool changed = allowance.idle != allowance_.idle || allowance.clones != allowance_.clones;
    allowance_ = allowance;
    // Also unchanged: a clone may have become warm for an acquire that went.
    given_up = give_up_surplus();
    if (!changed) return given_up;
    ++limits_version_;
  }
  work_cv_.notify_all();
  return given_up;
}

// The newest go: the next acquire gets what it would have got. What is still being prepared is seen to when it is
// ready.
uint32_t Pool::Impl::give_up_surplus() {
  uint32_t given_up = 0;
  for (; warm_.size() > idle_target() + waiters_; ++given_up) {
    const uint64_t served = warm_.size() - std::min<size_t>(warm_.size(), waiters_);
    const char* const why = served > settings_.size ? "size" : served > allowance_.wanted ? "policy" : "memory";
    measure(Measure::kEvictions, 1, why);
    give_up(warm_.back());
    warm_.pop_back();
  }
  const auto too_many_shells = [this] {
    return allowance_.idle == 0 || settings_.charge == Charge::kExact ||
           shells_.size() > settings_.refill_concurrency || entries_.size() + shells_.size() > settings_.max;
  };
  while (!shells_.empty() && too_many_shells()) {
    doomed_.push_back(std::move(shells_.back()));
    shells_.pop_back();
    reclaim_cv_.notify_one();
  }
  return given_up;
}

PoolUsage Pool::Impl::usage() const {
  const std::lock_guard lock(mutex_);
  return usage_locked();
}

PoolUsage Pool::Impl::usage_locked() const {
  PoolUsage usage{.other_bytes = template_.bytes, .hits = hits_, .misses = waited_ + failed_};
  const SteadyTime now = SteadyClock::now();
  for (const std::shared_ptr<Clone>& shell : shells_) usage.other_bytes += shell->measured_bytes();
  uint64_t measured = 0;
  uint64_t measured_bytes = 0;
  uint64_t held_unmeasured = 0;
  for (const auto& [id, entry] : entries_) {
    if (entry.clone->is_born_with_owner()) {
      ++usage.held;
      continue;
    }
    const bool on_its_way = entry.state == State::kRestoring || entry.state == State::kProbing;
    if (on_its_way) usage.oldest_refill = std::max<std::chrono::nanoseconds>(usage.oldest_refill, now - entry.begun);
    const bool idle = on_its_way || entry.state == State::kWarm;
    const bool going = entry.state == State::kReclaiming;
    const uint64_t bytes = on_its_way ? 0 : entry.clone->measured_bytes();  // a shell was measured, too
    measured += bytes > 0 ? 1 : 0;
    measured_bytes += bytes;
    ++(idle ? usage.idle : usage.held);
    if (idle) continue;
    (going ? usage.going_bytes : usage.other_bytes) += bytes;
    if (!going && entry.clone->has_moved()) usage.residue_bytes += bytes;
    held_unmeasured += bytes == 0 && !going ? 1 : 0;
  }
  usage.clone_bytes = measured > 0               ? measured_bytes / measured
                      : last_measured_bytes_ > 0 ? last_measured_bytes_
                                                 : template_.bytes + kVmmBound;
  usage.other_bytes += held_unmeasured * usage.clone_bytes;
  return usage;
}

}  // namespace granary::pool
