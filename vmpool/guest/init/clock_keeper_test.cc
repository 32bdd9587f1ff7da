// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/clock_keeper.h"

#include <gtest/gtest.h>

namespace granary::guest {
namespace {

using std::chrono::nanoseconds;

constexpr int64_t kNow = 1'700'000'000'000'000'000;
constexpr int64_t kTolerated = nanoseconds(ClockKeeper::kTolerance).count();

class ClockKeeperTest : public testing::Test {
 protected:
  ClockKeeperTest() {
    system_.set_host_realtime(kNow);
    EXPECT_TRUE(system_.set_realtime(kNow));
    keeper_.start();
  }
  void run_once() { ASSERT_TRUE(loop_->run_once(-1)); }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  DrySystem system_;
  ClockKeeper keeper_{*loop_, system_, nanoseconds(1)};
};

TEST_F(ClockKeeperTest, LeavesAClockAloneThatIsNearlyRight) {
  for (const int64_t off : {kTolerated, -kTolerated}) {
    system_.set_host_realtime(kNow + off);
    run_once();
    EXPECT_EQ(system_.realtime_ns(), kNow);
  }
}

TEST_F(ClockKeeperTest, FollowsTheHostInBothDirectionsAgainAndAgain) {
  for (const int64_t host : {kNow + kTolerated + 1, kNow, kNow + 7'200'000'000'000, kNow - 7'200'000'000'000}) {
    system_.set_host_realtime(host);
    run_once();
    EXPECT_EQ(system_.realtime_ns(), host);
  }
}

TEST_F(ClockKeeperTest, GoesOnAfterAFailure) {
  system_.fail("host-clock");
  system_.set_host_realtime(kNow + 1'000'000'000);
  run_once();
  EXPECT_EQ(system_.realtime_ns(), kNow);
  system_.fail("");
  run_once();
  EXPECT_EQ(system_.realtime_ns(), kNow + 1'000'000'000);
}

TEST_F(ClockKeeperTest, StartsOnce) {
  const size_t calls = system_.calls().size();
  keeper_.start();
  EXPECT_EQ(system_.calls().size(), calls);
}

}  // namespace
}  // namespace granary::guest
