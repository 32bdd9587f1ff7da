// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>

#include "vmpool/base/event_loop.h"

namespace granary::guest {

// Waits for every child of this process, its own and (as PID 1 or subreaper) orphans. Lives on the event loop's thread.
class Reaper {
 public:
  // How a process ended: `signal` is 0 if it exited by itself with `code`.
  struct Ending {
    int code = 0;
    int signal = 0;
  };
  using Callback = std::function<void(Ending)>;

  // Blocks SIGCHLD in this thread and takes it through a signalfd. One per process.
  static Result<std::unique_ptr<Reaper>> create(EventLoop& loop);
  ~Reaper();

  // Calls `callback` once when `pid`, a child just forked, ends.
  void watch(pid_t pid, Callback callback);
  // The child's owner is gone: no callback. SIGHUP now to the child and its process group, SIGKILL to its whole session
  // after kHangupGrace, or as soon as the child has ended. Does nothing for a child that was reaped already.
  void condemn(pid_t pid);

  static constexpr auto kHangupGrace = std::chrono::seconds(2);

 private:
  struct Child {
    Callback callback;
    EventLoop::Token kill_timer = 0;  // 0: not condemned
  };
  Reaper(EventLoop& loop, Fd signals) : loop_(loop), signals_(std::move(signals)) {}
  void reap();
  void finish(pid_t pid, Ending ending);

  EventLoop& loop_;
  Fd signals_;
  EventLoop::Token token_ = 0;
  std::map<pid_t, Child> children_;
};

}  // namespace granary::guest
