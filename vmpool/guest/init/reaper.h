// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>

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
  // The same for a process that became a child when its parent ended, also if it has been reaped since: while an
  // OrphanWatch exists endings of unknown processes are remembered. False if it is no child of this process, nor was
  // one since then.
  bool adopt(pid_t pid, Callback callback);
  // The child's owner is gone: no callback. SIGHUP now to the child and its process group, SIGKILL to its whole session
  // after kHangupGrace, or as soon as the child has ended. Does nothing for a child that was reaped already.
  void condemn(pid_t pid);

  static constexpr auto kHangupGrace = std::chrono::seconds(2);

  // Exists from before a child is started whose own children are to be adopted.
  class OrphanWatch {
   public:
    explicit OrphanWatch(Reaper& reaper) : reaper_(reaper) { ++reaper_.orphan_watches_; }
    ~OrphanWatch() {
      if (--reaper_.orphan_watches_ == 0) reaper_.orphans_.clear();
    }
    OrphanWatch(const OrphanWatch&) = delete;
    OrphanWatch& operator=(const OrphanWatch&) = delete;

   private:
    Reaper& reaper_;
  };

 private:
  struct Child {
    Callback callback;
    EventLoop::Token kill_timer = 0;              // 0: not condemned
    std::optional<Ending> reaped = std::nullopt;  // already, and to be told
  };
  Reaper(EventLoop& loop, Fd signals) : loop_(loop), signals_(std::move(signals)) {}
  void reap();
  void finish(pid_t pid, Ending ending);

  EventLoop& loop_;
  Fd signals_;
  EventLoop::Token token_ = 0;
  std::map<pid_t, Child> children_;
  unsigned orphan_watches_ = 0;
  std::map<pid_t, Ending> orphans_;  // reaped while there was a watch; at most kMostOrphans
};

}  // namespace granary::guest
