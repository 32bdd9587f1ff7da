// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "vmpool/base/event_loop.h"

namespace granary::shim {

// An event loop that a test turns itself, and a directory of its own.
class LoopTest : public ::testing::Test {
 protected:
  LoopTest() {
    std::string pattern = "/tmp/granary-shim-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
    loop_ = *EventLoop::create();
  }
  ~LoopTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  // Runs the loop until `done`; gives up after far longer than anything here takes.
  bool run_until(const std::function<bool()>& done) {
    const auto limit = EventLoop::Clock::now() + std::chrono::seconds(20);
    while (!done()) {
      if (EventLoop::Clock::now() > limit) return false;
      if (!loop_->run_once(100)) return false;
    }
    return true;
  }
  // What is due now.
  void settle() {
    for (int i = 0; i < 50; ++i) (void)loop_->run_once(0);
  }

  std::string directory_;
  std::unique_ptr<EventLoop> loop_;
};

}  // namespace granary::shim
