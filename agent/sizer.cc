// SPDX-License-Identifier: Apache-2.0
#include "agent/sizer.h"

#include <spdlog/spdlog.h>

namespace granary::agent {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kLook{1};
constexpr std::chrono::minutes kSave{5};

}  // namespace

Sizer::Sizer(PoolSet& pools, EventFeed& events, MemoryFiles files)
    : pools_(pools), events_(events), files_(std::move(files)) {
  subscription_ = events_.subscribe([this] {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_all();
  });
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

Sizer::~Sizer() {
  thread_ = {};  // it reads from the subscription, which wakes it
  subscription_.reset();
  pools_.save_learned();
}

void Sizer::run(const std::stop_token& stop) {
  steady_clock::time_point next_look = steady_clock::now();
  while (!stop.stop_requested()) {
    if (steady_clock::now() >= next_look) {
      next_look = steady_clock::now() + kLook;
      look();
    } else {
      pools_.resize_idle();
    }
    const bool each_event = pools_.has_budgets();
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, stop, next_look, [&] { return woken_ && each_event; });
    woken_ = false;
    lock.unlock();
    while (subscription_->take()) {
    }
  }
}

void Sizer::look() {
  const auto now = read_memory(files_);
  if (readable_ && !now) spdlog::error("memory pressure is not seen error=\"{}\"", now.error().message());
  readable_ = bool(now);
  const PressureLevel before = pressure_.level();
  if (now && pressure_.look(*now, pools_.min_available()) != before) {
    pools_.tell("pressure", "", std::string(to_string(pressure_.level())) + ": " + to_text(*now));
  }
  pools_.size_idle(pressure_.level());
  if (steady_clock::now() - saved_at_ < kSave) return;
  saved_at_ = steady_clock::now();
  pools_.save_learned();
}

}  // namespace granary::agent
