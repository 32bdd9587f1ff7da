// SPDX-License-Identifier: Apache-2.0
#include "agent/event_feed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace granary::agent {
namespace {

pool::Event event(const std::string& text) {
  return {.when = {}, .kind = "clone-ready", .pool = "p", .clone_id = "c", .text = text};
}

TEST(EventFeedTest, EveryWatcherGetsEveryEventInOrder) {
  EventFeed feed;
  int wakes = 0;
  const auto a = feed.subscribe([&] { ++wakes; });
  const auto b = feed.subscribe([] {});
  feed.publish(event("1"));
  feed.publish(event("2"));
  EXPECT_EQ(wakes, 2);
  for (const auto* watcher : {&a, &b}) {
    EXPECT_EQ((*watcher)->take()->text, "1");
    EXPECT_EQ((*watcher)->take()->text, "2");
    EXPECT_FALSE((*watcher)->take());
  }
}

TEST(EventFeedTest, ASlowWatcherLosesAndIsToldHowMany) {
  EventFeed feed;
  const auto slow = feed.subscribe([] {}, 2);
  const auto quick = feed.subscribe([] {}, 8);
  for (const char* text : {"1", "2", "3", "4", "5"}) feed.publish(event(text));
  EXPECT_EQ(slow->take()->text, "1");
  EXPECT_EQ(slow->take()->text, "2");
  const auto lagged = slow->take();
  ASSERT_TRUE(lagged);
  EXPECT_EQ(lagged->kind, "lagged");
  EXPECT_THAT(lagged->text, testing::StartsWith("3 events lost"));
  EXPECT_FALSE(slow->take());
  feed.publish(event("6"));
  EXPECT_EQ(slow->take()->text, "6");
  EXPECT_EQ(feed.lost(), 3u);
  EXPECT_EQ(quick->take()->text, "1");
}

TEST(EventFeedTest, AWatcherMayLeaveWhileOthersPublish) {
  EventFeed feed;
  std::jthread publisher([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) feed.publish(event("x"));
  });
  for (int i = 0; i < 20; ++i) {
    std::atomic<int> wakes = 0;
    auto watcher = feed.subscribe([&] { ++wakes; });
    while (wakes == 0) std::this_thread::yield();
    EXPECT_EQ(watcher->take()->text, "x");
  }
}

}  // namespace
}  // namespace granary::agent
