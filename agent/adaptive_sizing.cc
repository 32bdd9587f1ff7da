// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive_sizing.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>

#include "agent/log_text.h"

namespace granary::agent {
namespace {

constexpr size_t kMostFed = 65'536;

double seconds_of(pool::SteadyTime when) { return std::chrono::duration<double>(when.time_since_epoch()).count(); }

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Counters start anew with a pool that took over a name.
uint64_t since(uint64_t now, uint64_t before) { return now >= before ? now - before : now; }

}  // namespace

AdaptiveSizing::AdaptiveSizing(std::string path) : path_(std::move(path)) {
  if (path_.empty()) return;
  auto loaded = adaptive::load_learned(path_, wall_seconds());
  if (!loaded) {
    spdlog::warn("what pools have learned is lost error=\"{}\"", log_value(loaded.error().message()));
    return;
  }
  for (const std::string& why : loaded->refused) {
    spdlog::warn("what a pool has learned is lost file={} error=\"{}\"", path_, log_value(why));
  }
  learned_ = std::move(loaded->pools);
}

void AdaptiveSizing::asked(const std::string& pool, pool::SteadyTime when) {
  const std::lock_guard lock(feeds_mutex_);
  const auto feed = feeds_.find(pool);
  if (feed != feeds_.end() && feed->second.asked.size() < kMostFed) feed->second.asked.push_back(seconds_of(when));
}

void AdaptiveSizing::refilled(const std::string& pool, double seconds) {
  const std::lock_guard lock(feeds_mutex_);
  const auto feed = feeds_.find(pool);
  if (feed != feeds_.end() && feed->second.refills.size() < kMostFed) feed->second.refills.push_back(seconds);
}

AdaptiveSizing::Feed AdaptiveSizing::take_feed(const std::string& pool) {
  const std::lock_guard lock(feeds_mutex_);
  return std::exchange(feeds_[pool], {});
}

void AdaptiveSizing::keep_only(const std::set<std::string>& pools) {
  std::erase_if(entries_, [&](const auto& entry) { return !pools.contains(entry.first); });
  std::erase_if(learned_, [&](const auto& entry) { return !pools.contains(entry.first); });
  const std::lock_guard lock(feeds_mutex_);
  std::erase_if(feeds_, [&](const auto& feed) { return !pools.contains(feed.first); });
}

adaptive::Decision AdaptiveSizing::decide(const pool::PoolSettings& settings, const pool::PoolUsage& usage,
                                          Moment moment) {
  const auto learned = learned_.extract(settings.name);
  const auto [at, is_new] = entries_.try_emplace(
      settings.name, Entry{.policy = adaptive::Policy(learned ? std::move(learned.mapped()) : adaptive::Learned())});
  Entry& entry = at->second;
  Feed feed = take_feed(settings.name);
  std::ranges::sort(feed.asked);  // by threads
  for (const double when : feed.asked) entry.policy.asked(when);
  for (const double seconds : feed.refills) entry.policy.refilled(seconds);
  adaptive::Decision decision =
      entry.policy.decide({.now = seconds_of(moment.now),
                           .wall = moment.wall,
                           .min = settings.min,
                           .most = settings.size,
                           .refill_concurrency = settings.refill_concurrency,
                           .hit_target = settings.hit_target,
                           .hits = is_new ? 0 : since(usage.hits, entry.hits),
                           .misses = is_new ? 0 : since(usage.misses, entry.misses),
                           .allowed = entry.allowed,
                           .oldest_refill_seconds = std::chrono::duration<double>(usage.oldest_refill).count()});
  entry.hits = usage.hits;
  entry.misses = usage.misses;
  // Why it changed is what there is to tell until it changes again.
  const std::string before = std::move(entry.last.why);
  entry.last = decision;
  if (!decision.changed) entry.last.why = before;
  return decision;
}

const adaptive::Decision* AdaptiveSizing::last(const std::string& pool) const {
  const auto entry = entries_.find(pool);
  return entry == entries_.end() ? nullptr : &entry->second.last;
}

void AdaptiveSizing::allowed(const std::string& pool, uint32_t idle) {
  const auto entry = entries_.find(pool);
  if (entry != entries_.end()) entry->second.allowed = idle;
}

Status AdaptiveSizing::save(double wall) const {
  if (path_.empty()) return ok();
  adaptive::LearnedPools pools = learned_;
  for (const auto& [name, entry] : entries_) pools[name] = entry.policy.learned();
  if (pools.empty()) return ok();
  return adaptive::save_learned(path_, pools, wall);
}

}  // namespace granary::agent
