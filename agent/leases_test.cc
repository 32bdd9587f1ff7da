// SPDX-License-Identifier: Apache-2.0
#include "agent/leases.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

namespace granary::agent {
namespace {

using std::chrono::steady_clock;

pool::CloneInfo clone(const std::string& id) {
  pool::CloneInfo info;
  info.id = id;
  return info;
}
pool::SteadyTime far() { return steady_clock::now() + std::chrono::minutes(1); }
pool::SteadyTime past() { return steady_clock::now() - std::chrono::seconds(1); }

void hold(LeaseTable& table, const std::string& owner, const std::string& pool, const std::string& id) {
  auto outcome = table.begin(owner, pool, far());
  ASSERT_TRUE(outcome);
  ASSERT_TRUE(outcome->claim);
  EXPECT_TRUE(outcome->claim->commit({.owner_id = owner, .pool = pool, .clone = clone(id)}));
}

TEST(LeaseTableTest, TheSameOwnerGetsTheSameClone) {
  LeaseTable table;
  hold(table, "o", "p", "c1");
  const auto again = table.begin("o", "p", far());
  ASSERT_TRUE(again);
  EXPECT_FALSE(again->claim);
  EXPECT_EQ(again->held->clone.id, "c1");
  EXPECT_EQ(table.of_clone("c1")->owner_id, "o");
  EXPECT_EQ(table.of_owner("o")->clone.id, "c1");
}

TEST(LeaseTableTest, TheSameOwnerCannotChangeItsDisks) {
  LeaseTable table;
  const std::vector<DiskWish> disks = {{.path = "/a", .read_only = false}, {.path = "/b", .read_only = true}};
  auto first = table.begin("o", "p", far(), disks);
  ASSERT_TRUE(first && first->claim);
  EXPECT_TRUE(first->claim->commit({.owner_id = "o", .pool = "p", .clone = clone("c1"), .disks = disks}));
  EXPECT_EQ(table.begin("o", "p", far(), disks)->held->clone.id, "c1");
  for (const std::vector<DiskWish>& other :
       std::vector<std::vector<DiskWish>>{{}, {disks[1], disks[0]}, {disks[0], {.path = "/b", .read_only = false}}}) {
    const auto refused = table.begin("o", "p", far(), other);
    ASSERT_FALSE(refused);
    EXPECT_TRUE(refused.error().is(Errc::kInvalidArgument));
    EXPECT_THAT(refused.error().message(), testing::HasSubstr("clone c1 with disks /a, /b:ro, not with "));
  }
}

TEST(LeaseTableTest, AnOwnerAskingForAnotherCgroupIsRefused) {
  LeaseTable table;
  auto first = table.begin("o", "p", far(), {}, "/pod");
  ASSERT_TRUE(first && first->claim);
  EXPECT_TRUE(first->claim->commit({.owner_id = "o", .pool = "p", .clone = clone("c1"), .cgroup_parent = "/pod"}));
  EXPECT_EQ(table.begin("o", "p", far(), {}, "/pod")->held->clone.id, "c1");
  for (const std::string other : {"", "/pod2", "/\n\xff"}) {
    const auto refused = table.begin("o", "p", far(), {}, other);
    ASSERT_FALSE(refused);
    EXPECT_TRUE(refused.error().is(Errc::kInvalidArgument));
    EXPECT_THAT(refused.error().message(), testing::HasSubstr("clone c1 in cgroup /pod, not in "));
    EXPECT_EQ(refused.error().message().find_first_of("\n\xff"), std::string::npos);
  }
}

TEST(LeaseTableTest, AnOwnerCannotHoldClonesOfTwoPools) {
  LeaseTable table;
  hold(table, "o", "p", "c1");
  const auto other = table.begin("o", "q", far());
  ASSERT_FALSE(other);
  EXPECT_TRUE(other.error().is(Errc::kInvalidArgument));
  EXPECT_THAT(other.error().context(), testing::AllOf(testing::HasSubstr("c1"), testing::HasSubstr("of pool p")));
}

TEST(LeaseTableTest, ASecondCallWaitsForTheFirst) {
  LeaseTable table;
  auto first = table.begin("o", "p", far());
  ASSERT_TRUE(first);
  auto second = std::async(std::launch::async, [&] { return table.begin("o", "p", far())->held->clone.id; });
  EXPECT_TRUE(first->claim->commit({.owner_id = "o", .pool = "p", .clone = clone("c1")}));
  EXPECT_EQ(second.get(), "c1");
}

TEST(LeaseTableTest, ADroppedClaimPassesTheTurnOn) {
  LeaseTable table;
  auto first = table.begin("o", "p", far());
  ASSERT_TRUE(first);
  auto second = std::async(std::launch::async, [&] { return table.begin("o", "p", far())->claim.has_value(); });
  first->claim.reset();
  EXPECT_TRUE(second.get());
  EXPECT_FALSE(table.of_owner("o"));
}

TEST(LeaseTableTest, WaitingEndsAtTheDeadline) {
  LeaseTable table;
  auto first = table.begin("o", "p", far());
  ASSERT_TRUE(first);
  const auto second = table.begin("o", "p", past());
  ASSERT_FALSE(second);
  EXPECT_TRUE(second.error().is(Errc::kDeadlineExceeded));
}

TEST(LeaseTableTest, EndedClonesAreRememberedWithTheFirstReason) {
  LeaseTable table;
  hold(table, "o", "p", "c1");
  EXPECT_TRUE(table.end("c1", "ended: panic"));
  EXPECT_FALSE(table.end("c1", "released"));
  EXPECT_EQ(table.gone("c1"), "ended: panic");
  EXPECT_FALSE(table.gone("c2"));
  EXPECT_FALSE(table.of_clone("c1"));
  EXPECT_TRUE(table.all().empty());
  // The owner is free to take another.
  hold(table, "o", "q", "c2");
  EXPECT_EQ(table.all().size(), 1u);
}

TEST(LeaseTableTest, ACloneThatEndedBeforeItsLeaseBeganIsNotLeased) {
  LeaseTable table;
  auto outcome = table.begin("o", "p", far());
  ASSERT_TRUE(outcome);
  table.end("c1", "ended: panic");
  EXPECT_FALSE(outcome->claim->commit({.owner_id = "o", .pool = "p", .clone = clone("c1")}));
  EXPECT_FALSE(table.of_owner("o"));
  EXPECT_FALSE(table.of_clone("c1"));
}

TEST(LeaseTableTest, WhatIsGoneIsForgottenAfterAWhile) {
  LeaseTable table;
  table.end("first", "released");
  for (int i = 0; i < 4096; ++i) table.end(std::to_string(i), "released");
  EXPECT_FALSE(table.gone("first"));
  EXPECT_TRUE(table.gone("0"));
}

TEST(LeaseTableTest, AnOwnerAskingForAnotherNetworkIsRefused) {
  LeaseTable table;
  auto first = table.begin("o", "p", far(), {}, "", "/run/netns/a");
  ASSERT_TRUE(first && first->claim);
  EXPECT_TRUE(first->claim->commit({.owner_id = "o", .pool = "p", .clone = clone("c1"), .netns = "/run/netns/a"}));
  EXPECT_EQ(table.begin("o", "p", far(), {}, "", "/run/netns/a")->held->clone.id, "c1");
  const auto refused = table.begin("o", "p", far());
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), testing::HasSubstr("clone c1 in network namespace /run/netns/a, not in none"));
}

TEST(LeaseTableTest, AnOwnerAskingForOtherRulesIsRefused) {
  LeaseTable table;
  const NetWish some{.allow = {"tcp:10.0.0.0/8:443", "192.0.2.1"}};
  auto first = table.begin("o", "p", far(), {}, "", "", some);
  ASSERT_TRUE(first && first->claim);
  EXPECT_TRUE(first->claim->commit({.owner_id = "o", .pool = "p", .clone = clone("c1"), .net = some}));
  EXPECT_EQ(table.begin("o", "p", far(), {}, "", "", some)->held->clone.id, "c1");
  EXPECT_THAT(table.begin("o", "p", far(), {}, "", "", NetWish{}).error().message(),
              testing::HasSubstr("clone c1 in the agent's network, allowing tcp:10.0.0.0/8:443, 192.0.2.1, not in the "
                                 "agent's network"));
  EXPECT_THAT(table.begin("o", "p", far()).error().message(),
              testing::HasSubstr("not in none of the agent's networks"));
}

}  // namespace
}  // namespace granary::agent
