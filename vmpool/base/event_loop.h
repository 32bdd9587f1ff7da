// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "vmpool/base/fd.h"

namespace granary {

// An eventfd: a counter another thread or process can raise. Non-blocking.
class EventFd {
 public:
  static Result<EventFd> create();
  explicit EventFd(Fd fd) : fd_(std::move(fd)) {}
  [[nodiscard]] int get() const { return fd_.get(); }
  [[nodiscard]] const Fd& fd() const { return fd_; }
  // Adds one. Safe from a signal handler and from any thread.
  void signal() const;
  // Takes the count (0 when none is pending).
  [[nodiscard]] uint64_t drain() const;

 private:
  Fd fd_;
};

// A single-threaded epoll(7) loop. Callbacks run on the thread that calls run(); every method but stop() and post() belongs
// to that thread. Nothing in a callback may block.
class EventLoop {
 public:
  using Callback = std::function<void(uint32_t epoll_events)>;
  using Clock = std::chrono::steady_clock;
  // Identifies one registration; 0 is never used.
  using Token = uint64_t;

  static Result<std::unique_ptr<EventLoop>> create();

  // Calls `callback` whenever `fd` (borrowed: it must stay open until remove()) has one of `events` (EPOLLIN, EPOLLOUT …;
  // level-triggered). A callback may remove or add any registration, its own included.
  Result<Token> add(int fd, uint32_t events, Callback callback);
  Status modify(Token token, uint32_t events);
  // Idempotent.
  void remove(Token token);

  // One-shot timer; the token can be cancelled with remove().
  Token call_at(Clock::time_point when, std::function<void()> callback);

  // From any thread: runs `task` on the loop's thread.
  void post(std::function<void()> task);

  // Until stop(). run_once waits at most `timeout_ms` (-1: for ever) and runs what is due.
  Status run();
  Status run_once(int timeout_ms);
  // From any thread.
  void stop();

  ~EventLoop();

 private:
  struct Watch;
  struct Shared;
  EventLoop(Fd epoll, EventFd wake);
  void run_timers();
  void run_posted();

  Fd epoll_;
  EventFd wake_;
  std::unique_ptr<Shared> shared_;
  Token next_token_ = 1;
  std::map<Token, std::shared_ptr<Watch>> watches_;
  std::multimap<Clock::time_point, std::pair<Token, std::function<void()>>> timers_;
};

}  // namespace granary
