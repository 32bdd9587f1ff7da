// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "vmpool/base/event_loop.h"

namespace granary::guest {

// One descriptor's registration in an event loop; ends with its owner. The descriptor stays open longer than it.
class Watch {
 public:
  explicit Watch(EventLoop& loop) : loop_(loop) {}
  ~Watch() { stop(); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Calls `callback` on these events from now on; does nothing if it does so already.
  Status start(int fd, uint32_t events, EventLoop::Callback callback) {
    if (token_ != 0 && events == events_) return ok();
    if (token_ != 0) {
      events_ = events;
      return loop_.modify(token_, events);
    }
    token_ = GRANARY_TRY(loop_.add(fd, events, std::move(callback)));
    events_ = events;
    return ok();
  }
  void stop() {
    if (token_ != 0) loop_.remove(std::exchange(token_, 0));
  }

 private:
  EventLoop& loop_;
  EventLoop::Token token_ = 0;
  uint32_t events_ = 0;
};

}  // namespace granary::guest
