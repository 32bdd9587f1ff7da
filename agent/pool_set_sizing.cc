// SPDX-License-Identifier: Apache-2.0
// What memory the pools of a PoolSet use, and how many idle clones it lets them keep.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "agent/log_text.h"
#include "agent/pool_set.h"

namespace granary::agent {
namespace {

// Room in the pool part's cgroup beyond the budget, for what is measured late: clones that are being restored, and
// those that an acquire which finds no warm one is served with.
uint64_t limit_of(uint64_t budget) { return budget + budget / 8 + 64 * kMiB; }

pool::PoolAllowance to_allowance(const PoolTarget& target, const pool::PoolUsage& usage, bool is_short) {
  pool::PoolAllowance allowance{.reason = to_string(target.bound)};
  if (target.bound != Bound::kNone) allowance.idle = target.idle;
  // So a clone that is handed over is not replaced before what it keeps was counted.
  if (is_short) allowance.clones = usage.held + target.idle;
  return allowance;
}

}  // namespace

void PoolSet::size_idle(PressureLevel level) {
  const std::lock_guard lock(sizing_mutex_);
  level_ = level;
  size_by(level);
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
  size_by(level_ == PressureLevel::kHigh ? PressureLevel::kHold : level_);
}

void PoolSet::size_by(PressureLevel level) {
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
    demands.push_back({.size = settings.size,
                       .min = settings.min,
                       .idle = usage.idle,
                       .clone_bytes = usage.clone_bytes,
                       .other_bytes = usage.other_bytes,
                       .going_bytes = usage.going_bytes,
                       .budget = settings.memory_budget});
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
    const uint32_t shed = members[i].pool->allow(to_allowance(targets[i], usages[i], is_short));
    if (shed > 0) tell("shed", members[i].name, std::to_string(shed) + " idle clones: " + to_string(targets[i].bound));
  }
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
