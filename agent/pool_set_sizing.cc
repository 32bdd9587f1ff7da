// SPDX-License-Identifier: Apache-2.0
// What memory the pools of a PoolSet use, and how many idle clones it lets them keep.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "agent/log_text.h"
#include "agent/pool_set.h"

namespace granary::agent {
namespace {

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Room in the pool part's cgroup beyond the budget, for what is measured late: clones that are being restored, and
// those that an acquire which finds no warm one is served with.
uint64_t limit_of(uint64_t budget) { return budget + budget / 8 + 64 * kMiB; }

pool::PoolAllowance to_allowance(const PoolTarget& target, const pool::PoolUsage& usage, bool is_short,
                                 const adaptive::Decision* decision) {
  pool::PoolAllowance allowance{.reason = to_string(target.bound)};
  if (decision != nullptr) {
    allowance.wanted = decision->wish;
    allowance.why = decision->why;
  }
  if (decision != nullptr || target.bound != Bound::kNone) allowance.idle = target.idle;
  // So a clone that is handed over is not replaced before what it keeps was counted.
  if (is_short) allowance.clones = usage.held + target.idle;
  return allowance;
}

}  // namespace

void PoolSet::size_idle(PressureLevel level) {
  const std::lock_guard lock(sizing_mutex_);
  level_ = level;
  size_by(level, /*decide=*/true);
  limit_memory();
}

void PoolSet::limit_memory() {
  if (resources_.groups == nullptr) return;
  std::optional<uint64_t> budget;
  {
    const std::lock_guard lock(pools_mutex_);
    budget = memory_budget_;
  }
  const Status limited = resources_.groups->limit(budget ? std::optional(limit_of(*budget)) : std::nullopt);
  if (!limited) spdlog::error("pools are not limited error=\"{}\"", log_value(limited.error().message()));
}

void PoolSet::resize_idle() {
  const std::lock_guard lock(sizing_mutex_);
  size_by(level_ == PressureLevel::kHigh ? PressureLevel::kHold : level_, /*decide=*/false);
}

PoolDemand PoolSet::demand_of(const pool::PoolSettings& settings, const pool::PoolUsage& usage, bool decide) {
  PoolDemand demand{.size = settings.size,
                    .min = settings.min,
                    .idle = usage.idle,
                    .clone_bytes = usage.clone_bytes,
                    .other_bytes = usage.other_bytes,
                    .going_bytes = usage.going_bytes,
                    .budget = settings.memory_budget};
  if (!settings.adaptive) return demand;
  if (decide || adaptive_.last(settings.name) == nullptr) {
    const adaptive::Decision decision =
        adaptive_.decide(settings, usage, {.now = std::chrono::steady_clock::now(), .wall = wall_seconds()});
    if (decision.changed) tell("pool-wants", settings.name, decision.why);
  }
  const adaptive::Decision& last = *adaptive_.last(settings.name);
  // The settings may have changed since it decided.
  demand.size = std::clamp(last.wish, settings.min, settings.size);
  demand.worth = last.worth;
  demand.worth.resize(demand.size);
  return demand;
}

void PoolSet::permit(const Member& member, const PoolDemand& demand, const pool::PoolUsage& usage, PoolTarget target,
                     bool is_short) {
  const adaptive::Decision* const decision = member.pool->settings().adaptive ? adaptive_.last(member.name) : nullptr;
  if (decision != nullptr) {
    adaptive_.allowed(member.name, target.bound == Bound::kNone ? UINT32_MAX : target.idle);
  }
  const uint32_t shed = member.pool->allow(to_allowance(target, usage, is_short, decision));
  const bool by_policy = decision != nullptr && target.idle == demand.size;
  if (shed > 0 && !by_policy) {
    tell("shed", member.name, std::to_string(shed) + " idle clones: " + to_string(target.bound));
  }
}

void PoolSet::size_by(PressureLevel level, bool decide) {
  std::vector<Member> members;
  std::vector<Member> retired;
  std::optional<uint64_t> node_budget;
  {
    const std::lock_guard lock(pools_mutex_);
    members = pools_;
    retired = retired_;
    node_budget = memory_budget_;
  }
  std::vector<PoolDemand> demands;
  std::vector<pool::PoolUsage> usages;
  for (const Member& member : members) {
    const pool::PoolSettings settings = member.pool->settings();
    const pool::PoolUsage usage = member.pool->usage();
    demands.push_back(demand_of(settings, usage, decide));
    usages.push_back(usage);
  }
  for (const Member& member : retired) {
    const pool::PoolUsage usage = member.pool->usage();
    demands.push_back({.other_bytes = usage.other_bytes,
                       .going_bytes = usage.going_bytes + usage.idle * usage.clone_bytes,
                       .budget = {}});
  }
  const std::vector<PoolTarget> targets = size_pools(demands, node_budget, level);
  for (size_t i = 0; i < members.size(); ++i) {
    const bool is_short = node_budget || demands[i].budget || level != PressureLevel::kNone;
    permit(members[i], demands[i], usages[i], targets[i], is_short);
  }
}

void PoolSet::save_learned() const {
  const std::lock_guard lock(sizing_mutex_);
  const Status saved = adaptive_.save(wall_seconds());
  if (!saved) spdlog::error("what pools have learned is not kept error=\"{}\"", log_value(saved.error().message()));
}

bool PoolSet::has_budgets() const {
  {
    const std::lock_guard lock(pools_mutex_);
    if (memory_budget_) return true;
  }
  return std::ranges::any_of(members(), [](const Member& m) { return m.pool->settings().memory_budget.has_value(); });
}

uint64_t PoolSet::min_available() const {
  const std::lock_guard lock(pools_mutex_);
  return min_available_;
}

}  // namespace granary::agent
