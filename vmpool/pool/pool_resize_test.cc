// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>

#include "vmpool/pool/pool.h"
#include "vmpool/pool/test_bench.h"

namespace granary::pool {
namespace {

SteadyTime in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }
const auto kLong = std::chrono::milliseconds(60'000);

// Limits of a pool that change while it runs.
class PoolResizeTest : public testing::Test {
 protected:
  std::unique_ptr<Pool> start(const PoolSettings& settings) {
    Result<std::unique_ptr<Pool>> pool = Pool::start(settings, bench.resources());
    EXPECT_TRUE(pool) << pool.error().message();
    return pool ? std::move(*pool) : nullptr;
  }
  bool settles_at(const Pool& pool, uint32_t warm) {
    return bench.wait_until([&] {
      const PoolStatus status = pool.status();
      return status.warm == warm && status.restoring == 0 && status.reclaiming == 0;
    });
  }
  // Clones, and shells that wait to become some.
  bool has_vms(size_t most) {
    return bench.wait_until([&] { return bench.spawner().list()->size() <= most; });
  }
  TestBench bench;
};

TEST_F(PoolResizeTest, GrowsAndShrinksByIdleClonesOnly) {
  const auto pool = start(bench.settings());
  const Result<CloneInfo> held = pool->acquire({}, in(kLong));
  ASSERT_TRUE(held) << held.error().message();
  PoolLimits limits = bench.settings();
  limits.size = 6;
  ASSERT_TRUE(pool->resize(limits));
  EXPECT_TRUE(settles_at(*pool, 6));
  EXPECT_EQ(pool->status().target, 6U);
  limits.size = 1;
  ASSERT_TRUE(pool->resize(limits));
  EXPECT_TRUE(settles_at(*pool, 1));
  EXPECT_EQ(pool->status().running, 1U);
  EXPECT_TRUE(*pool->release(held->id));
  EXPECT_EQ(pool->status().leaks, 0U);
}

TEST_F(PoolResizeTest, ShrinkingKeepsWhatTheNextAcquireWouldGet) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(settles_at(*pool, 3));
  std::set<std::string> before;
  for (const CloneStatus& clone : pool->clones()) before.insert(clone.info.id);
  PoolLimits limits = bench.settings();
  limits.size = 1;
  ASSERT_TRUE(pool->resize(limits));
  EXPECT_TRUE(settles_at(*pool, 1));
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone);
  EXPECT_TRUE(before.contains(clone->id));
  EXPECT_TRUE(clone->warm);
}

TEST_F(PoolResizeTest, WhatIsBeingRestoredWhileItShrinksDoesNotStay) {
  PoolSettings settings = bench.settings();
  settings.probe_timeout = std::chrono::milliseconds(50);
  const auto pool = start(settings);
  ASSERT_TRUE(settles_at(*pool, 3));
  ASSERT_TRUE(pool->release(pool->clones().front().info.id));
  PoolLimits limits = settings;
  limits.size = 0;
  ASSERT_TRUE(pool->resize(limits));
  EXPECT_TRUE(settles_at(*pool, 0));
}

TEST_F(PoolResizeTest, MaxBelowWhatIsHeldEndsNothing) {
  const auto pool = start(bench.settings());
  const Result<CloneInfo> one = pool->acquire({}, in(kLong));
  const Result<CloneInfo> two = pool->acquire({}, in(kLong));
  ASSERT_TRUE(one && two);
  PoolLimits limits = bench.settings();
  limits.size = 1;
  limits.max = 1;
  limits.refill_concurrency = 1;
  ASSERT_TRUE(pool->resize(limits));
  EXPECT_TRUE(has_vms(3)) << "two held, one idle that was there before";
  EXPECT_EQ(pool->status().running, 2U);
  ASSERT_TRUE(pool->release(one->id));
  ASSERT_TRUE(pool->release(two->id));
  EXPECT_TRUE(settles_at(*pool, 1));
  ASSERT_TRUE(pool->acquire({}, in(kLong)));
  EXPECT_TRUE(pool->acquire({}, in(std::chrono::milliseconds(10))).error().is(Errc::kPoolEmpty));
}

TEST_F(PoolResizeTest, RaisedMaxServesWhoWaits) {
  PoolSettings settings = bench.settings();
  settings.size = 1;
  settings.max = 1;
  settings.refill_concurrency = 1;
  const auto pool = start(settings);
  ASSERT_TRUE(pool->acquire({}, in(kLong)));
  std::thread waiting([&] { EXPECT_TRUE(pool->acquire({}, in(kLong))); });
  ASSERT_TRUE(bench.wait_until([&] { return bench.events("pool-empty") > 0; }));
  settings.max = 8;
  settings.refill_concurrency = 4;
  ASSERT_TRUE(pool->resize(settings));
  waiting.join();
}

TEST_F(PoolResizeTest, NewTimeoutsCount) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(settles_at(*pool, 3));
  PoolLimits limits = bench.settings();
  limits.identity_timeout = std::chrono::milliseconds(20);
  ASSERT_TRUE(pool->resize(limits));
  bench.set_behaviour("silent-identity");
  EXPECT_FALSE(pool->acquire({}, in(std::chrono::milliseconds(30))));
  bench.set_behaviour("");
  EXPECT_TRUE(pool->acquire({}, in(kLong)));
}

TEST_F(PoolResizeTest, BadLimitsChangeNothing) {
  const auto pool = start(bench.settings());
  PoolLimits limits = bench.settings();
  limits.min = 4;
  EXPECT_TRUE(pool->resize(limits).error().is(Errc::kInvalidArgument));
  limits.min = 0;
  limits.size = 9;
  EXPECT_TRUE(pool->resize(limits).error().is(Errc::kInvalidArgument));
  limits.size = 1;
  limits.refill_concurrency = 65;
  EXPECT_TRUE(pool->resize(limits).error().is(Errc::kInvalidArgument));
  EXPECT_EQ(pool->status().target, 3U);
  pool->drain(false);
  limits.refill_concurrency = 1;
  EXPECT_TRUE(pool->resize(limits).error().is(Errc::kShuttingDown));
}

// Every clone of this pool costs 8 MiB.
PoolResources with_cgroup_memory(PoolResources resources) {
  resources.groups.memory_bytes = [](const std::string&) -> Result<uint64_t> { return 8 * kMiB; };
  return resources;
}

TEST_F(PoolResizeTest, AllowsLessThanConfigured) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(settles_at(*pool, 3));
  EXPECT_EQ(pool->allow({.idle = 1, .reason = "a test"}), 2U);
  EXPECT_TRUE(settles_at(*pool, 1));
  EXPECT_EQ(pool->status().target, 1U);
  EXPECT_EQ(pool->status().size, 3U);
  EXPECT_EQ(pool->status().bound, "a test");
  EXPECT_EQ(pool->allow({.idle = 1}), 0U);
  EXPECT_EQ(pool->allow({.idle = 0}), 1U);
  EXPECT_TRUE(has_vms(0)) << "no shell either";
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone) << "on demand: " << clone.error().message();
  EXPECT_EQ(pool->allow({}), 0U);
  EXPECT_TRUE(settles_at(*pool, 3));
}

TEST_F(PoolResizeTest, NoCloneBeyondWhatIsAllowedInAnyState) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(settles_at(*pool, 3));
  pool->allow({.clones = 3});
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone);
  EXPECT_EQ(pool->status().warm, 2U);
  EXPECT_EQ(pool->status().restoring, 0U) << "it is not replaced";
  ASSERT_TRUE(pool->release(clone->id));
  EXPECT_TRUE(settles_at(*pool, 3));
}

TEST_F(PoolResizeTest, UsageIsMeasured) {
  Result<std::unique_ptr<Pool>> started = Pool::start(bench.settings(), with_cgroup_memory(bench.resources()));
  ASSERT_TRUE(started);
  const Pool& pool = **started;
  ASSERT_TRUE(bench.wait_until([&] { return bench.events("clone-ready") >= 3; }));
  const uint64_t idle_other = pool.usage().other_bytes;
  EXPECT_EQ(pool.usage().clone_bytes, 8 * kMiB);
  EXPECT_EQ(pool.usage().idle, 3U);
  ASSERT_TRUE((*started)->acquire({}, in(kLong)));
  EXPECT_EQ(pool.usage().held, 1U);
  EXPECT_GE(pool.usage().other_bytes, 8 * kMiB) << "what it had at its hand-over";
  (*started)->allow({.idle = 0});
  EXPECT_TRUE(bench.wait_until([&] { return pool.usage().idle == 0; }));
  EXPECT_EQ(pool.usage().clone_bytes, 8 * kMiB) << "the last that was measured";
  EXPECT_GT(idle_other, 0U);
}

TEST_F(PoolResizeTest, BeforeTheFirstCloneTheTemplateIsTheBound) {
  PoolSettings settings = bench.settings();
  settings.size = 0;
  const auto pool = start(settings);
  ASSERT_TRUE(bench.wait_until([&] { return bench.events("template-ready") > 0; }));
  // The fake VMM writes three pages.
  EXPECT_EQ(pool->usage().clone_bytes, 3 * kPageSize + 4 * kMiB);
}

TEST_F(PoolResizeTest, WithoutCgroupsPssIsMeasured) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(bench.wait_until([&] { return bench.events("clone-ready") >= 3; }));
  EXPECT_GT(pool->usage().clone_bytes, 0U);
  EXPECT_LT(pool->usage().clone_bytes, 4 * kMiB);
}

}  // namespace
}  // namespace granary::pool
