// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/event_loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>

#include <thread>

namespace granary {
namespace {

class EventLoopTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Result<std::unique_ptr<EventLoop>> loop = EventLoop::create();
    ASSERT_TRUE(loop);
    loop_ = *std::move(loop);
  }
  std::unique_ptr<EventLoop> loop_;
};

TEST_F(EventLoopTest, CallsBackOnReadiness) {
  const Result<EventFd> event = EventFd::create();
  ASSERT_TRUE(event);
  uint64_t count = 0;
  ASSERT_TRUE(loop_->add(event->get(), EPOLLIN, [&](uint32_t) { count += event->drain(); }));
  event->signal();
  event->signal();
  ASSERT_TRUE(loop_->run_once(1000));
  EXPECT_EQ(count, 2U);
}

TEST_F(EventLoopTest, RemovedDuringTheSameRoundIsNotCalled) {
  const Result<EventFd> a = EventFd::create();
  const Result<EventFd> b = EventFd::create();
  ASSERT_TRUE(a && b);
  int calls = 0;
  EventLoop::Token token_a = 0;
  EventLoop::Token token_b = 0;
  // Whichever runs first removes both.
  const auto callback = [&](uint32_t) {
    ++calls;
    loop_->remove(token_a);
    loop_->remove(token_b);
  };
  token_a = *loop_->add(a->get(), EPOLLIN, callback);
  token_b = *loop_->add(b->get(), EPOLLIN, callback);
  a->signal();
  b->signal();
  ASSERT_TRUE(loop_->run_once(1000));
  EXPECT_EQ(calls, 1);
}

TEST_F(EventLoopTest, PostFromAnotherThreadRunsOnTheLoopThread) {
  std::thread::id ran_on;
  std::jthread poster([&] {
    loop_->post([&] {
      ran_on = std::this_thread::get_id();
      loop_->stop();
    });
  });
  ASSERT_TRUE(loop_->run());
  EXPECT_EQ(ran_on, std::this_thread::get_id());
}

TEST_F(EventLoopTest, TimersRunInOrderAndCanBeCancelled) {
  std::string order;
  const auto now = EventLoop::Clock::now();
  loop_->call_at(now - std::chrono::milliseconds(1), [&] { order += 'b'; });
  loop_->call_at(now - std::chrono::milliseconds(2), [&] { order += 'a'; });
  const EventLoop::Token cancelled = loop_->call_at(now - std::chrono::milliseconds(3), [&] { order += 'x'; });
  loop_->remove(cancelled);
  ASSERT_TRUE(loop_->run_once(0));
  EXPECT_EQ(order, "ab");
}

TEST_F(EventLoopTest, AddOfABadDescriptorIsAnError) {
  const Result<EventLoop::Token> token = loop_->add(-1, EPOLLIN, [](uint32_t) {});
  ASSERT_FALSE(token);
  EXPECT_TRUE(token.error().is_errno(EBADF));
}

// What a callback holds may use the loop while it goes with the loop.
TEST_F(EventLoopTest, WhatGoesWithTheLoopMayRemoveItsRegistrations) {
  struct Holder {
    EventLoop& loop;
    EventLoop::Token timer = 0;
    int& gone;
    ~Holder() {
      loop.remove(timer);
      ++gone;
    }
  };
  int gone = 0;
  const auto later = EventLoop::Clock::now() + std::chrono::hours(1);
  for (int i = 0; i < 8; ++i) {
    auto holder = std::make_shared<Holder>(*loop_, 0, gone);
    holder->timer = loop_->call_at(later, [] {});
    loop_->call_at(later, [holder] {});
    loop_->post([holder] {});
  }
  loop_.reset();
  EXPECT_EQ(gone, 8);
}

}  // namespace
}  // namespace granary
