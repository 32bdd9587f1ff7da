// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive/profile.h"

#include <gtest/gtest.h>

namespace granary::adaptive {
namespace {

// Hours of 4 slots; in each the second is busy.
void live(Profile& profile, int hours, double from = 0) {
  for (int i = 0; i < hours * 4; ++i) {
    profile.look(from + i * 900, 1e-4);
    for (int n = 0; n < 5 && i % 4 == 1; ++n) profile.asked();
  }
  profile.look(from + hours * 3600, 1e-4);
}

TEST(ProfileTest, WhatWasBusyFourTimesIsExpected) {
  Profile profile(900, 4);
  live(profile, 3);
  EXPECT_FALSE(profile.is_busy_within(900, 0));
  live(profile, 3, 3 * 3600);
  EXPECT_TRUE(profile.is_busy_within(900, 0));
  EXPECT_TRUE(profile.is_busy_within(1'799, 0));
  EXPECT_FALSE(profile.is_busy_within(1'800, 0));
  EXPECT_TRUE(profile.is_busy_within(890, 10)) << "also from before it";
  EXPECT_FALSE(profile.is_busy_within(880, 10));
  EXPECT_TRUE(profile.is_busy_within(1'800, 3'600));
}

TEST(ProfileTest, JumpsOfTheClockTeachNothing) {
  Profile profile(900, 4);
  for (int i = 0; i < 100; ++i) {
    for (int n = 0; n < 50; ++n) profile.asked();
    profile.look(i % 2 == 0 ? 1e9 : 5, 1e-4);
  }
  for (const double wall : {-1.0, 0.0, 1e300, -1e300}) {
    for (int n = 0; n < 50; ++n) profile.asked();
    profile.look(wall, 1e-4);
    (void)profile.is_busy_within(wall, 1e300);
  }
  for (const float often : profile.often()) EXPECT_EQ(often, 0);
}

TEST(ProfileTest, OnlyWhatFitsIsRestored) {
  Profile profile(900, 4);
  profile.restore({1, 1});
  EXPECT_FALSE(profile.is_busy_within(0, 3'600));
  profile.restore({0, 0, 1, 0});
  EXPECT_TRUE(profile.is_busy_within(1'800, 0));
}

TEST(ProfileTest, UsualTrafficIsNotBusy) {
  Profile profile(900, 4);
  for (int i = 0; i < 400; ++i) {
    for (int n = 0; n < 900; ++n) profile.asked();
    profile.look(i * 900, 1);
  }
  EXPECT_FALSE(profile.is_busy_within(0, 3'600));
}

}  // namespace
}  // namespace granary::adaptive
