// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace granary::ctl::selftest {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// What a sound guest prints, its values marked with `mark`.
std::string printed(const std::string& mark) {
  std::string text;
  for (const char* name :
       {"boot-id", "uuid", "machine-id", "hostname", "urandom-cpu0", "urandom-cpu1", "at-random", "mac"}) {
    text += std::string(name) + " " + name + "-" + mark + "\n";
  }
  return text;
}

TEST(Identities, ClonesThatDifferInEverythingAreRight) {
  Identities identities;
  identities.add("c1", printed("1"));
  identities.add("c2", printed("2") + "mac another\n");
  EXPECT_EQ(identities.wrong(), 0U);
  EXPECT_EQ(identities.compared(), 17U);
}

TEST(Identities, AnEqualValueIsNamedWithBothClones) {
  Identities identities;
  identities.add("c1", printed("1") + "mac shared\n");
  identities.add("c2", printed("2") + "mac shared\n");
  EXPECT_THAT(identities.complaints(), ElementsAre("mac shared of clone c2 is also that of clone c1"));
}

TEST(Identities, ACloneWhoseOwnValuesAreEqualIsWrong) {
  Identities identities;
  identities.add("c1", printed("1") + "mac mac-1\n");
  EXPECT_THAT(identities.complaints(), ElementsAre("mac mac-1 of clone c1 is also that of clone c1"));
}

TEST(Identities, WhatIsMissingOrEmptyIsNamed) {
  std::string text = printed("1");
  text.erase(text.find("machine-id"), sizeof("machine-id"));  // its value becomes a line of its own
  text.replace(text.find("at-random at-random-1"), sizeof("at-random at-random-1") - 1, "at-random ");
  Identities identities;
  identities.add("c1", text);
  EXPECT_THAT(identities.complaints(), ElementsAre("clone c1 says no machine-id", "clone c1 says no at-random"));
}

TEST(Identities, NoiseIsBounded) {
  Identities identities;
  for (int i = 0; i < 100; ++i) identities.add("c", std::string(10'000, 'x') + "\nunknown y\n\n");
  EXPECT_EQ(identities.compared(), 0U);
  EXPECT_EQ(identities.wrong(), 800U);
  EXPECT_LE(identities.complaints().size(), 20U);
}

constexpr const char* kClocks =
    "uptime 12.34\n    mode: 0\n-p  timeconstant: 2\n    time.tv_sec:  1795729645\n    time.tv_usec: 959549\n";

TEST(GuestClocks, ReadsWhatTheScriptPrints) {
  const auto clocks = parse_clocks(kClocks);
  ASSERT_TRUE(clocks);
  EXPECT_EQ(clocks->realtime_ns, 1'795'729'645'959'549'000);
  EXPECT_DOUBLE_EQ(clocks->uptime_s, 12.34);
}

TEST(GuestClocks, EveryPartOfItIsNotEnough) {
  const std::string whole = kClocks;
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(parse_clocks(whole.substr(0, n))) << n;
}

TEST(GuestClocks, NonsenseIsNone) {
  EXPECT_FALSE(parse_clocks("uptime -1\ntime.tv_sec: 1\ntime.tv_usec: 1\n"));
  EXPECT_FALSE(parse_clocks("uptime nan\ntime.tv_sec: 1\ntime.tv_usec: 1\n"));
  EXPECT_FALSE(parse_clocks("uptime 1\ntime.tv_sec: 99999999999999999999\ntime.tv_usec: 1\n"));
  EXPECT_FALSE(parse_clocks("uptime 1\ntime.tv_sec: 1\ntime.tv_usec: 1000000\n"));
}

TEST(GuestClocks, OutsideIsTheDistanceToTheHostsTwoLooks) {
  EXPECT_EQ(outside_ns(150, 100, 200), 0);
  EXPECT_EQ(outside_ns(90, 100, 200), 10);
  EXPECT_EQ(outside_ns(230, 100, 200), 30);
}

}  // namespace
}  // namespace granary::ctl::selftest
