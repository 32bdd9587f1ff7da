// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <set>

#include "vmpool/spawn/jail.h"

namespace granary::spawn {
namespace {

// Outside the default range, and of this process alone: nobody has them.
const uint32_t kBase = 0x7100'0000 + static_cast<uint32_t>(::getpid()) % 0x1'0000 * 32;

TEST(UidSlotsTest, EachIsGivenOnceUntilGivenBack) {
  UidSlots slots = *UidSlots::create({.base = kBase, .count = 3});
  std::set<uid_t> seen;
  for (int i = 0; i < 3; ++i) seen.insert(*slots.take());
  EXPECT_EQ(seen, (std::set<uid_t>{kBase, kBase + 1, kBase + 2}));
  const Result<uid_t> none = slots.take();
  ASSERT_FALSE(none);
  EXPECT_TRUE(none.error().is_errno(EUSERS));
  EXPECT_NE(none.error().message().find("--uid-count"), std::string::npos) << none.error().message();
  slots.give_back(kBase + 1);
  EXPECT_EQ(*slots.take(), kBase + 1);
  EXPECT_EQ(slots.taken(), 3U);
}

TEST(UidSlotsTest, FreedOnesAreUsedLast) {
  UidSlots slots = *UidSlots::create({.base = kBase, .count = 3});
  slots.give_back(*slots.take());
  EXPECT_EQ(*slots.take(), kBase + 1);
  EXPECT_EQ(*slots.take(), kBase + 2);
  EXPECT_EQ(*slots.take(), kBase);
  EXPECT_EQ(*UidSlots::create({.base = kBase, .count = 3}, 5)->take(), kBase + 2);
}

TEST(UidSlotsTest, RangesThatHoldRootOrEndTooHighAreRefused) {
  for (const UidRange range : {UidRange{0, 10}, UidRange{10, 0}, UidRange{0x7fff'ffff, 2}, UidRange{5, UINT32_MAX}}) {
    const Result<UidSlots> slots = UidSlots::create(range);
    ASSERT_FALSE(slots) << range.base << " " << range.count;
    EXPECT_TRUE(slots.error().is(Errc::kInvalidArgument));
  }
  EXPECT_TRUE(UidSlots::create({0x7fff'ffff, 1}));
  EXPECT_TRUE(UidSlots::create({}));
}

TEST(UidSlotsTest, LeavesOutWhatAProcessOfSomebodyElseHas) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: it starts a process of another user";
  int told[2];
  ASSERT_EQ(::pipe(told), 0);
  const pid_t other = ::fork();
  if (other == 0) {
    const char done = ::setuid(kBase + 16) == 0 ? 'y' : 'n';
    [[maybe_unused]] const ssize_t n = ::write(told[1], &done, 1);
    for (;;) ::pause();
  }
  char done = 'n';
  ASSERT_EQ(::read(told[0], &done, 1), 1);
  EXPECT_EQ(done, 'y');
  UidSlots slots = *UidSlots::create({.base = kBase + 16, .count = 2});
  EXPECT_EQ(*slots.take(), kBase + 17);
  EXPECT_FALSE(slots.take());
  ::kill(other, SIGKILL);
  ::waitpid(other, nullptr, 0);
  EXPECT_EQ(*slots.take(), kBase + 16);
  ::close(told[0]);
  ::close(told[1]);
}

}  // namespace
}  // namespace granary::spawn
