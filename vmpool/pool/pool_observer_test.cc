// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>

#include "vmpool/pool/observer.h"
#include "vmpool/pool/test_bench.h"

namespace granary::pool {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

SteadyTime in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }
const auto kLong = std::chrono::milliseconds(60'000);

// What a pool tells its observer.
class PoolObserverTest : public testing::Test {
 protected:
  std::unique_ptr<Pool> start(const PoolSettings& settings) {
    PoolResources resources = bench.resources();
    resources.observer = {
        .measured = [this](Measure what, double value, const char* label) { add(what, value, label); },
        .clone_failed =
            [this](const FlightRecord& record) {
              const std::lock_guard lock(mutex);
              failed.push_back(record);
            }};
    resources.observer.asked = [this] { ++asked; };
    Result<std::unique_ptr<Pool>> pool = Pool::start(settings, std::move(resources));
    EXPECT_TRUE(pool) << pool.error().message();
    return pool ? std::move(*pool) : nullptr;
  }
  void add(Measure what, double value, const std::string& label) {
    const std::lock_guard lock(mutex);
    EXPECT_GE(value, 0);
    sums[{what, label}] += value;
    ++times[what];
  }
  double sum(Measure what, const std::string& label = "") {
    const std::lock_guard lock(mutex);
    return sums[{what, label}];
  }
  size_t count(Measure what) {
    const std::lock_guard lock(mutex);
    return times[what];
  }
  bool full(const Pool& pool) {
    return bench.wait_until([&] { return pool.status().warm == pool.status().target; });
  }
  std::vector<FlightRecord> failures() {
    const std::lock_guard lock(mutex);
    return failed;
  }
  static std::vector<std::string> states(const FlightRecord& record) {
    std::vector<std::string> all;
    for (const FlightStep& step : record.steps) all.emplace_back(step.state);
    return all;
  }

  std::atomic<int> asked = 0;
  std::mutex mutex;
  std::map<std::pair<Measure, std::string>, double> sums;
  std::map<Measure, size_t> times;
  std::vector<FlightRecord> failed;
  TestBench bench;
};

TEST_F(PoolObserverTest, ALifeWithoutFailureIsMeasuredStepByStep) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(full(*pool));
  EXPECT_EQ(sum(Measure::kTemplateBuilds, "ok"), 1);
  EXPECT_EQ(count(Measure::kTemplateSeconds), 1U);
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_EQ(sum(Measure::kAcquires, "hit"), 1);
  EXPECT_EQ(count(Measure::kAcquireSeconds), 1U);
  EXPECT_EQ(count(Measure::kIdentitySeconds), 1U);
  EXPECT_LE(sum(Measure::kIdentitySeconds), sum(Measure::kAcquireSeconds));
  EXPECT_TRUE(*pool->release(clone->id));
  EXPECT_EQ(sum(Measure::kVmmExits, "reclaimed"), 1);
  EXPECT_EQ(count(Measure::kReclaimSeconds), 1U);
  EXPECT_EQ(sum(Measure::kLeaks), 0);
  ASSERT_TRUE(full(*pool));
  EXPECT_TRUE(bench.wait_until([&] { return sum(Measure::kRefills, "ok") == 4; }));
  EXPECT_EQ(count(Measure::kRestoreSeconds), 4U);
  EXPECT_EQ(count(Measure::kProbeSeconds), 4U);
  EXPECT_EQ(count(Measure::kRefillSeconds), 4U);
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(pool->usage().hits, 1U);
  EXPECT_EQ(pool->usage().misses, 0U);
  EXPECT_TRUE(failures().empty());
  EXPECT_THAT(bench.last_text("handed-over"), testing::MatchesRegex("in [0-9.]+ ms, hit"));
  EXPECT_THAT(bench.last_text("reclaimed"), testing::MatchesRegex("in [0-9.]+ ms, 0 leaks"));
}

TEST_F(PoolObserverTest, ColdIsWhatWasRestoredBecauseOfTheAcquire) {
  PoolSettings settings = bench.settings();
  settings.size = 0;
  settings.max = 1;
  const auto pool = start(settings);
  ASSERT_TRUE(pool->acquire({}, in(kLong)));
  EXPECT_EQ(sum(Measure::kAcquires, "cold"), 1);
  EXPECT_FALSE(pool->acquire({}, in(std::chrono::milliseconds(10))));
  EXPECT_EQ(sum(Measure::kAcquires, "failed"), 1);
  EXPECT_EQ(count(Measure::kAcquireSeconds), 1U);
  EXPECT_EQ(asked, 2);
  EXPECT_FALSE(pool->acquire({.hostname = "_"}, in(kLong)));
  EXPECT_EQ(asked, 2) << "wrong in itself";
  EXPECT_EQ(pool->usage().misses, 2U);
}

TEST_F(PoolObserverTest, WhatAPolicyNoLongerWantsIsEvictedInItsName) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(full(*pool));
  EXPECT_EQ(pool->allow({.idle = 2, .wanted = 2, .why = "quiet"}), 1U);
  EXPECT_EQ(sum(Measure::kEvictions, "policy"), 1);
  EXPECT_EQ(pool->allow({.idle = 1, .wanted = 2}), 1U);
  EXPECT_EQ(sum(Measure::kEvictions, "memory"), 1);
}

TEST_F(PoolObserverTest, ARunningCloneThatIsKilledLeavesItsRecord) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(full(*pool));
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone);
  const auto live = pool->flights();
  EXPECT_THAT(live, Contains(testing::Field(&FlightRecord::clone_id, clone->id)));
  ASSERT_EQ(::kill(clone->vmm_pid, SIGKILL), 0);
  ASSERT_TRUE(bench.wait_until([&] { return !failures().empty(); }));
  const FlightRecord record = failures().front();
  EXPECT_EQ(record.clone_id, clone->id);
  EXPECT_EQ(record.pool, "test");
  EXPECT_STREQ(record.failed_in, "running");
  EXPECT_THAT(record.failure, HasSubstr("killed by signal 9"));
  EXPECT_THAT(states(record), ElementsAre("spawned", "shell", "restoring", "probing", "warm", "acquiring", "unparked",
                                          "running", "failed", "reclaiming", "gone"));
  EXPECT_EQ(sum(Measure::kVmmExits, "lost"), 1);
  EXPECT_EQ(sum(Measure::kCloneFailures, "running"), 1);
}

TEST_F(PoolObserverTest, AnIdentityThatFailsNamesItsState) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(full(*pool));
  bench.set_behaviour("fail-identity");
  EXPECT_FALSE(pool->acquire({}, in(std::chrono::milliseconds(50))));
  bench.set_behaviour("");
  ASSERT_TRUE(bench.wait_until([&] { return !failures().empty(); }));
  EXPECT_STREQ(failures().front().failed_in, "unparked");
  EXPECT_THAT(failures().front().failure, HasSubstr("fake cannot set the clock"));
  EXPECT_EQ(sum(Measure::kAcquires, "failed"), 1);
}

TEST_F(PoolObserverTest, ALeakIsToldOnceHoweverOftenItIsTried) {
  const auto pool = start(bench.settings());
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone);
  ASSERT_TRUE(full(*pool));
  bench.fail_group_removal = true;
  ASSERT_TRUE(pool->release(clone->id));
  bench.fail_group_removal = false;
  ASSERT_EQ(failures().size(), 1U);
  EXPECT_THAT(failures().front().failure, HasSubstr("leaked: cgroup clone-" + clone->id));
  EXPECT_EQ(bench.events("reclaim-failed"), 1U);
  EXPECT_EQ(sum(Measure::kLeaks), 1);
  ASSERT_TRUE(bench.wait_until([&] { return bench.events("reclaimed") == 1; }));
  EXPECT_EQ(sum(Measure::kLeaks), 1);
  EXPECT_EQ(sum(Measure::kVmmExits, "reclaimed"), 1);
  EXPECT_EQ(failures().size(), 1U);
}

TEST_F(PoolObserverTest, ANewTemplateEvictsIdleClones) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(full(*pool));
  ASSERT_TRUE(pool->rebuild_template([](const std::string&) {}));
  EXPECT_EQ(sum(Measure::kEvictions, "template"), 3);
  pool->drain(true);
  EXPECT_EQ(sum(Measure::kEvictions, "template"), 3);
}

TEST_F(PoolObserverTest, AFailedBuildIsCounted) {
  bench.set_behaviour("error-at-snapshot");
  const auto pool = start(bench.settings());
  EXPECT_TRUE(bench.wait_until([&] { return sum(Measure::kTemplateBuilds, "failed") >= 1; }));
  EXPECT_EQ(count(Measure::kTemplateSeconds), 0U);
}

TEST_F(PoolObserverTest, MemoryIsToldByKind) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(full(*pool));
  PoolMemory memory = pool->memory();
  EXPECT_GT(memory.template_bytes, 0U);
  EXPECT_GT(memory.idle_bytes, 0U);
  EXPECT_EQ(memory.running_bytes, 0U);
  ASSERT_TRUE(pool->acquire({}, in(kLong)));
  memory = pool->memory();
  EXPECT_GT(memory.running_bytes, 0U);
}

}  // namespace
}  // namespace granary::pool
