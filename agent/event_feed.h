// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "vmpool/pool/pool.h"

namespace granary::agent {

class EventFeed;

// One watcher's bounded queue. A slow watcher loses the newest events, never delays anybody, and is told: the next
// event it takes after a loss is of kind "lagged" and says how many were lost. Thread-safe.
class Subscription {
 public:
  ~Subscription();
  // The next event, or nothing. Never waits.
  std::optional<pool::Event> take();

 private:
  friend class EventFeed;
  Subscription(EventFeed& feed, size_t limit, std::function<void()> wake)
      : feed_(feed), limit_(limit), wake_(std::move(wake)) {}
  void push(const pool::Event& event);

  EventFeed& feed_;
  const size_t limit_;
  const std::function<void()> wake_;
  std::mutex mutex_;
  std::deque<pool::Event> queue_;
  uint64_t lost_ = 0;
};

// Carries events from the pools to everybody who watches. Outlives its subscriptions. Thread-safe.
class EventFeed {
 public:
  static constexpr size_t kQueueLimit = 256;

  // `wake` is called, from a publisher's thread and without locks of the subscription held, whenever take() has
  // something new. Once the subscription is destroyed it is not called any more.
  std::unique_ptr<Subscription> subscribe(std::function<void()> wake, size_t limit = kQueueLimit);
  void publish(const pool::Event& event);
  // Events lost by all watchers so far.
  [[nodiscard]] uint64_t lost() const;

 private:
  friend class Subscription;
  void remove(const Subscription* subscription);

  mutable std::mutex mutex_;
  std::vector<Subscription*> subscriptions_;
  uint64_t lost_ = 0;
};

}  // namespace granary::agent
