// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

namespace granary {
namespace {

constexpr uint64_t kWakeToken = 0;

}  // namespace

Result<EventFd> EventFd::create() {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return Error::last_os_error("eventfd");
  return EventFd(std::move(fd));
}

void EventFd::signal() const {
  const uint64_t one = 1;
  // EAGAIN means the counter is full, so the reader is woken anyway.
  [[maybe_unused]] const ssize_t n = ::write(fd_.get(), &one, sizeof(one));
}

uint64_t EventFd::drain() const {
  uint64_t count = 0;
  return ::read(fd_.get(), &count, sizeof(count)) == sizeof(count) ? count : 0;
}

struct EventLoop::Watch {
  int fd;
  Callback callback;
};

struct EventLoop::Shared {
  std::atomic<bool> stopping = false;
  std::mutex mutex;
  std::vector<std::function<void()>> posted;
};

EventLoop::EventLoop(Fd epoll, EventFd wake)
    : epoll_(std::move(epoll)), wake_(std::move(wake)), shared_(std::make_unique<Shared>()) {}

// What goes with a callback may still call remove(), which finds maps that are empty and whole.
EventLoop::~EventLoop() {
  const auto timers = std::exchange(timers_, {});
  const auto watches = std::exchange(watches_, {});
  std::vector<std::function<void()>> posted;
  const std::lock_guard lock(shared_->mutex);
  posted.swap(shared_->posted);
}

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return Error::last_os_error("epoll_create1");
  EventFd wake = GRANARY_TRY(EventFd::create());
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWakeToken;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0) {
    return Error::last_os_error("epoll_ctl add eventfd");
  }
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll), std::move(wake)));
}

Result<EventLoop::Token> EventLoop::add(int fd, uint32_t events, Callback callback) {
  const Token token = next_token_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = token;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return Error::last_os_error("epoll_ctl add fd " + std::to_string(fd));
  }
  watches_.emplace(token, std::make_shared<Watch>(Watch{fd, std::move(callback)}));
  return token;
}

Status EventLoop::modify(Token token, uint32_t events) {
  const auto found = watches_.find(token);
  if (found == watches_.end()) return Error::from_errno(ENOENT, "epoll registration");
  epoll_event event{};
  event.events = events;
  event.data.u64 = token;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, found->second->fd, &event) != 0) {
    return Error::last_os_error("epoll_ctl mod");
  }
  return ok();
}

void EventLoop::remove(Token token) {
  const auto found = watches_.find(token);
  if (found != watches_.end()) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second->fd, nullptr);
    watches_.erase(found);
    return;
  }
  std::erase_if(timers_, [token](const auto& timer) { return timer.second.first == token; });
}

EventLoop::Token EventLoop::call_at(Clock::time_point when, std::function<void()> callback) {
  const Token token = next_token_++;
  timers_.emplace(when, std::pair(token, std::move(callback)));
  return token;
}

void EventLoop::post(std::function<void()> task) {
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->posted.push_back(std::move(task));
  }
  wake_.signal();
}

void EventLoop::stop() {
  shared_->stopping = true;
  wake_.signal();
}

Status EventLoop::run() {
  while (!shared_->stopping) {
    if (Status s = run_once(-1); !s) return s;
  }
  return ok();
}

Status EventLoop::run_once(int timeout_ms) {
  if (!timers_.empty()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first - Clock::now());
    const int due_ms = static_cast<int>(std::clamp<int64_t>(left.count(), 0, 60'000));
    timeout_ms = timeout_ms < 0 ? due_ms : std::min(timeout_ms, due_ms);
  }
  std::array<epoll_event, 32> events;
  const int n = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  if (n < 0 && errno != EINTR) return Error::last_os_error("epoll_wait");
  for (int i = 0; i < n; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    const Token token = event.data.u64;  // copied: epoll_event is packed, so a reference to it may be misaligned
    if (token == kWakeToken) {
      (void)wake_.drain();
      run_posted();
      continue;
    }
    // An earlier callback of this round may have removed this one.
    const auto found = watches_.find(token);
    if (found == watches_.end()) continue;
    const std::shared_ptr<Watch> keep_alive = found->second;
    keep_alive->callback(event.events);
  }
  run_timers();
  return ok();
}

void EventLoop::run_timers() {
  const Clock::time_point now = Clock::now();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const std::function<void()> callback = std::move(timers_.begin()->second.second);
    timers_.erase(timers_.begin());
    callback();
  }
}

void EventLoop::run_posted() {
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(shared_->mutex);
    tasks.swap(shared_->posted);
  }
  for (const auto& task : tasks) task();
}

}  // namespace granary
