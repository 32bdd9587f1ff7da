// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "agent/event_feed.h"
#include "agent/pool_set.h"
#include "agent/pressure.h"

namespace granary::agent {

// Looks at the node's memory once a second and has the pools sized by what it sees; where budgets are configured, also
// at each event of the pools, because their memory has changed then. While the files cannot be read, which is logged
// once, the level stays what it was. What adaptive pools learn is kept every 5 minutes, and at the end.
class Sizer {
 public:
  Sizer(PoolSet& pools, EventFeed& events, MemoryFiles files);
  ~Sizer();
  Sizer(const Sizer&) = delete;
  Sizer& operator=(const Sizer&) = delete;

 private:
  void run(const std::stop_token& stop);
  void look();

  PoolSet& pools_;
  EventFeed& events_;
  const MemoryFiles files_;
  Pressure pressure_;
  bool readable_ = true;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool woken_ = false;
  std::chrono::steady_clock::time_point saved_at_ = std::chrono::steady_clock::now();
  std::unique_ptr<Subscription> subscription_;
  std::jthread thread_;  // last: it uses all of the above
};

}  // namespace granary::agent
