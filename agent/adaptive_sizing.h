// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "agent/adaptive/learned_file.h"
#include "vmpool/pool/pool.h"

namespace granary::agent {

// The policies of adaptive pools, by name, and what pools tell them. A pool that is re-shaped keeps its policy. asked()
// and refilled() from any thread, also under a pool's lock; the others one at a time.
class AdaptiveSizing {
 public:
  // What an earlier agent left; an unreadable file, or a line of it, is logged and does without. Empty path: nothing is
  // kept.
  explicit AdaptiveSizing(std::string path);

  void asked(const std::string& pool, pool::SteadyTime when);
  void refilled(const std::string& pool, double seconds);

  // Forgets the policies of all other pools.
  void keep_only(const std::set<std::string>& pools);
  struct Moment {
    pool::SteadyTime now;
    double wall = 0;  // seconds since 1970
  };
  // How many idle clones the pool's policy wants, from its settings' `min` to `size`. A pool that is seen for the first
  // time gets its policy, from what was learned where that is known.
  adaptive::Decision decide(const pool::PoolSettings& settings, const pool::PoolUsage& usage, Moment moment);
  // As decide() said last, within the settings; nothing was decided: `decide` does it.
  [[nodiscard]] const adaptive::Decision* last(const std::string& pool) const;
  // What decide() wanted and the pool may have of it.
  void allowed(const std::string& pool, uint32_t idle);

  // errno errors.
  [[nodiscard]] Status save(double wall) const;

 private:
  // Between two looks; bounded.
  struct Feed {
    std::vector<double> asked;
    std::vector<double> refills;
  };
  struct Entry {
    adaptive::Policy policy;
    adaptive::Decision last = {};
    uint64_t hits = 0;  // as of the last look
    uint64_t misses = 0;
    uint32_t allowed = UINT32_MAX;
  };
  Feed take_feed(const std::string& pool);

  const std::string path_;
  std::map<std::string, Entry> entries_;
  adaptive::LearnedPools learned_;  // of pools that have no policy yet
  std::mutex feeds_mutex_;
  std::map<std::string, Feed> feeds_;  // of pools with a policy
};

}  // namespace granary::agent
