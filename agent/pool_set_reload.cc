// SPDX-License-Identifier: Apache-2.0
// How a PoolSet comes from one configuration to the next.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>

#include "agent/log_text.h"
#include "agent/pool_set.h"

namespace granary::agent {
namespace {

// What a leaking clone needs until it is proven gone is not told: so a retired pool is looked at now and then.
constexpr std::chrono::seconds kRetiredLook{1};

bool same_template(const pool::PoolSettings& a, const pool::PoolSettings& b) {
  return a.shape == b.shape && a.source == b.source && a.sharing == b.sharing && a.core_scheduling == b.core_scheduling;
}

bool is_empty(const pool::PoolStatus& status) {
  return status.warm + status.restoring + status.running + status.reclaiming == 0;
}

}  // namespace

Status PoolSet::apply(const Config& config) {
  const std::vector<Member> before = members();
  std::vector<Member> next;
  std::vector<std::pair<Member, pool::PoolLimits>> kept;
  for (const pool::PoolSettings& settings : config.pools) {
    const auto at = std::ranges::find(before, settings.name, &Member::name);
    if (at != before.end() && same_template(at->pool->settings(), settings)) {
      kept.emplace_back(*at, settings);
      next.push_back(*at);
    } else {
      next.push_back(GRANARY_TRY(make(settings)));
      // Its template comes later than its share of the memory, and what its policy wants.
      if (config.memory_budget || settings.memory_budget || settings.adaptive)
        next.back().pool->allow({.idle = 0, .clones = 0});
    }
  }
  for (const auto& [member, limits] : kept) {
    if (static_cast<const pool::PoolLimits&>(member.pool->settings()) == limits) continue;
    GRANARY_TRY(member.pool->resize(limits));
    tell("pool-resized", member.name, "size " + std::to_string(limits.size) + ", max " + std::to_string(limits.max));
  }
  std::vector<Member> gone = before;
  std::erase_if(gone, [&](const Member& old) {
    return std::ranges::any_of(next, [&](const Member& now) { return now.pool == old.pool; });
  });
  uint64_t generation = 0;
  {
    const std::lock_guard lock(pools_mutex_);
    if (draining_) return Error(Errc::kShuttingDown, "the agent ends");
    pools_ = std::move(next);
    memory_budget_ = config.memory_budget;
    min_available_ = config.min_available;
    retired_.insert(retired_.end(), gone.begin(), gone.end());
    configuration_ = {.generation = configuration_.generation + 1, .hash = config.hash, .refused = ""};
    generation = configuration_.generation;
  }
  forget_policies(config);
  for (const Member& member : gone) tell("pool-retired", member.name, "its held clones live on");
  retired_changed_.notify_all();
  keep_taps_ready();
  resize_idle();
  tell("config-applied", "", "generation " + std::to_string(generation) + ", hash " + config.hash);
  return ok();
}

void PoolSet::forget_policies(const Config& config) {
  std::set<std::string> adaptive;
  for (const pool::PoolSettings& settings : config.pools) {
    if (settings.adaptive) adaptive.insert(settings.name);
  }
  const std::lock_guard lock(sizing_mutex_);
  adaptive_.keep_only(adaptive);
}

void PoolSet::tell(const std::string& kind, const std::string& pool, const std::string& text) {
  spdlog::info("{} pool={} text=\"{}\"", kind, pool.empty() ? "-" : pool, log_value(text));
  resources_.events.publish(
      {.when = std::chrono::system_clock::now(), .kind = kind, .pool = pool, .clone_id = "", .text = text});
}

bool PoolSet::note_refused(const std::string& why) {
  {
    const std::lock_guard lock(pools_mutex_);
    if (configuration_.refused == why) return false;
    configuration_.refused = why;
  }
  if (!why.empty()) tell("config-refused", "", why);
  return true;
}

PoolSet::Configuration PoolSet::configuration() const {
  const std::lock_guard lock(pools_mutex_);
  return configuration_;
}

std::vector<PoolSet::Member> PoolSet::members() const {
  const std::lock_guard lock(pools_mutex_);
  return pools_;
}

std::vector<PoolSet::Member> PoolSet::all_members() const {
  const std::lock_guard lock(pools_mutex_);
  std::vector<Member> all = pools_;
  all.insert(all.end(), retired_.begin(), retired_.end());
  return all;
}

uint32_t PoolSet::retired_clones() const {
  std::vector<Member> retired;
  {
    const std::lock_guard lock(pools_mutex_);
    retired = retired_;
  }
  uint32_t clones = 0;
  for (const Member& member : retired) clones += member.pool->status().running;
  return clones;
}

// Reclaims what retired pools keep idle, then takes them away one by one when their last clone has gone.
void PoolSet::end_retired(const std::stop_token& stop) {
  std::unique_lock lock(pools_mutex_);
  while (retired_changed_.wait(lock, stop, [this] { return !retired_.empty(); })) {
    clone_went_ = false;
    std::vector<Member> looked_at = retired_;
    lock.unlock();
    for (const Member& member : looked_at) member.pool->drain(/*and_running=*/false);
    std::erase_if(looked_at, [](const Member& member) { return !is_empty(member.pool->status()); });
    for (const Member& member : looked_at) tell("pool-gone", member.name, "its last clone is reclaimed");
    lock.lock();
    std::erase_if(retired_, [&](const Member& member) {
      return std::ranges::any_of(looked_at, [&](const Member& gone) { return gone.pool == member.pool; });
    });
    lock.unlock();
    looked_at.clear();  // here they end, if nobody uses them any more
    lock.lock();
    if (!retired_.empty()) retired_changed_.wait_for(lock, stop, kRetiredLook, [this] { return clone_went_; });
  }
}

}  // namespace granary::agent
