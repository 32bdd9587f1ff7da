// SPDX-License-Identifier: Apache-2.0
#include "agent/event_feed.h"

#include <algorithm>

namespace granary::agent {

Subscription::~Subscription() { feed_.remove(this); }

void Subscription::push(const pool::Event& event) {
  {
    const std::lock_guard lock(mutex_);
    if (queue_.size() >= limit_ || lost_ > 0) {  // until the notice is taken, so that it stands where the loss was
      ++lost_;
      ++feed_.lost_;  // publish() holds the feed's mutex
    } else {
      queue_.push_back(event);
    }
  }
  wake_();
}

std::optional<pool::Event> Subscription::take() {
  const std::lock_guard lock(mutex_);
  if (queue_.empty() && lost_ == 0) return std::nullopt;
  if (queue_.empty()) {
    // The lost ones are newer than all that was queued: so the notice comes where they would have been.
    pool::Event lagged{
        .when = std::chrono::system_clock::now(), .kind = "lagged", .pool = "", .clone_id = "", .text = ""};
    lagged.text = std::to_string(std::exchange(lost_, 0)) + " events lost: this watcher is too slow";
    return lagged;
  }
  pool::Event event = std::move(queue_.front());
  queue_.pop_front();
  return event;
}

std::unique_ptr<Subscription> EventFeed::subscribe(std::function<void()> wake, size_t limit) {
  std::unique_ptr<Subscription> subscription(new Subscription(*this, limit, std::move(wake)));
  const std::lock_guard lock(mutex_);
  subscriptions_.push_back(subscription.get());
  return subscription;
}

void EventFeed::publish(const pool::Event& event) {
  const std::lock_guard lock(mutex_);
  for (Subscription* subscription : subscriptions_) subscription->push(event);
}

uint64_t EventFeed::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

void EventFeed::remove(const Subscription* subscription) {
  const std::lock_guard lock(mutex_);
  std::erase(subscriptions_, subscription);
}

}  // namespace granary::agent
