// SPDX-License-Identifier: Apache-2.0
// To whom a clone's memory is charged, on the stand-in for the VMM and for cgroups.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>

#include "vmpool/pool/test_bench.h"

namespace granary::pool {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

SteadyTime in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }
const auto kLong = std::chrono::milliseconds(60'000);
const std::string kPod = "/kubepods/pod1";

// Cgroups of the test's own: which there are, who is in which, and what the pool's part may grow by.
class PoolChargeTest : public testing::Test {
 protected:
  void start(Charge charge = Charge::kResidue) {
    PoolSettings settings = bench.settings();
    settings.charge = charge;
    settings.size = charge == Charge::kExact ? 0 : 2;
    PoolResources resources = bench.resources();
    resources.groups = {.create = [this](const std::string& name) { return create(name); },
                        .add = [this](const std::string& name, int32_t pid) { return add(name, pid); },
                        .remove = [this](const std::string& name) -> Status {
                          const std::lock_guard lock(mutex);
                          groups.erase(name);
                          return ok();
                        },
                        .memory_bytes = [](const std::string&) -> Result<uint64_t> { return kCharged; },
                        .reserve = [this](const std::string& name, uint64_t bytes) -> Status {
                          const std::lock_guard lock(mutex);
                          if (limit_is_stuck) return Error::from_errno(EBUSY, "raise the limit");
                          reserved[name] = bytes;
                          return ok();
                        }};
    resources.journal.moving = [this](const std::string& id, const std::string& group) -> Status {
      const std::lock_guard lock(mutex);
      journalled[id] = group;
      return ok();
    };
    Result<std::unique_ptr<Pool>> started = Pool::start(settings, std::move(resources));
    ASSERT_TRUE(started) << started.error().message();
    pool = std::move(*started);
    ASSERT_TRUE(bench.wait_until(
        [&] { return pool->status().template_state == "ready" && pool->status().warm == settings.size; }));
  }
  Result<CloneInfo> acquire(const std::string& cgroup_parent) {
    return pool->acquire({}, in(kLong), {.cgroup_parent = cgroup_parent});
  }
  std::map<std::string, int32_t> groups_in_pod() {
    const std::lock_guard lock(mutex);
    return {groups.lower_bound(kPod + "/"), groups.lower_bound(kPod + "0")};
  }
  std::string group_of(const CloneInfo& clone) const { return kPod + "/granary-" + clone.id; }

  static constexpr uint64_t kCharged = 3 * kMiB;
  TestBench bench;
  std::mutex mutex;
  std::map<std::string, int32_t> groups;  // and the process that was moved there; 0: none
  std::map<std::string, uint64_t> reserved;
  std::map<std::string, std::string> journalled;
  bool pod_is_gone = false;
  bool move_fails = false;
  bool limit_is_stuck = false;
  std::atomic<bool> was_unparked = false;
  std::unique_ptr<Pool> pool;

 private:
  Result<Fd> create(const std::string& name) {
    const std::lock_guard lock(mutex);
    if (name.starts_with('/') && pod_is_gone) return Error::from_errno(ENOENT, "create cgroup " + name);
    groups.try_emplace(name, 0);
    return Fd();
  }
  Status add(const std::string& name, int32_t pid) {
    if (name.starts_with('/')) {
      if (move_fails) return Error::from_errno(EBUSY, "move into cgroup " + name);
      const auto console = pool->console(name.substr(name.rfind("granary-") + 8));
      was_unparked = was_unparked || (console && console->find("unpark") != std::string::npos);
    }
    const std::lock_guard lock(mutex);
    groups.at(name) = pid;
    return ok();
  }
};

TEST_F(PoolChargeTest, AVmmMovesBelowItsOwnersGroupBeforeTheGuestRuns) {
  start();
  const auto clone = acquire(kPod);
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_EQ(groups_in_pod(), (std::map<std::string, int32_t>{{group_of(*clone), clone->vmm_pid}}));
  EXPECT_EQ(journalled.at(clone->id), group_of(*clone)) << "for the next agent";
  EXPECT_FALSE(was_unparked);
  EXPECT_THAT(*pool->console(clone->id), HasSubstr("unpark"));
  EXPECT_EQ(clone->residue_bytes, kCharged);
  EXPECT_TRUE(groups.contains("clone-" + clone->id)) << "the residue's";
  EXPECT_THAT(reserved, IsEmpty());
  EXPECT_EQ(pool->usage().residue_bytes, kCharged);
  EXPECT_TRUE(*pool->release(clone->id));
  EXPECT_THAT(groups_in_pod(), IsEmpty());
  EXPECT_FALSE(groups.contains("clone-" + clone->id));
  EXPECT_EQ(pool->usage().residue_bytes, 0U);
  EXPECT_EQ(pool->status().leaks, 0U);
}

TEST_F(PoolChargeTest, OneWithoutAnOwnersGroupMayGrowInThePoolsPart) {
  start();
  const auto clone = acquire("");
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_THAT(groups_in_pod(), IsEmpty());
  EXPECT_GE(reserved.at("clone-" + clone->id), bench.settings().shape.memory_bytes);
  EXPECT_EQ(clone->residue_bytes, 0U);
  EXPECT_EQ(pool->usage().residue_bytes, 0U);
}

TEST_F(PoolChargeTest, ACloneThatCannotMoveIsDestroyedAndNoOtherTried) {
  start();
  for (bool* const fault : {&pod_is_gone, &move_fails}) {
    *fault = true;
    const uint64_t before = pool->status().reclaimed;
    const auto clone = acquire(kPod);
    ASSERT_FALSE(clone);
    EXPECT_THAT(clone.error().message(), HasSubstr(kPod + "/granary-"));
    EXPECT_FALSE(clone.error().is(Errc::kIdentityFailed));
    EXPECT_EQ(pool->status().reclaimed, before + 1);
    EXPECT_THAT(groups_in_pod(), IsEmpty());
    *fault = false;
    ASSERT_TRUE(bench.wait_until([&] { return pool->status().warm == 2; }));
  }
  EXPECT_TRUE(acquire(kPod));
}

TEST_F(PoolChargeTest, ExactlyChargedClonesAreBornWithTheirOwners) {
  start(Charge::kExact);
  EXPECT_THAT(pool->clones(), IsEmpty());
  EXPECT_THAT(*bench.spawner().list(), IsEmpty()) << "no shells either";
  const uint64_t before = pool->usage().other_bytes;
  const auto clone = acquire(kPod);
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_EQ(groups_in_pod(), (std::map<std::string, int32_t>{{group_of(*clone), clone->vmm_pid}}));
  EXPECT_EQ(groups.size(), 1U) << "nothing of it in the pool's part";
  EXPECT_FALSE(clone->warm);
  EXPECT_EQ(clone->residue_bytes, 0U);
  EXPECT_EQ(pool->usage().other_bytes, before);
  EXPECT_TRUE(*pool->release(clone->id));
  EXPECT_THAT(groups, IsEmpty());
  EXPECT_THAT(*bench.spawner().list(), IsEmpty());
}

TEST_F(PoolChargeTest, AnExactPoolServesWhoNamesNoGroupFromItsOwnPart) {
  start(Charge::kExact);
  const auto clone = acquire("");
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_TRUE(reserved.contains("clone-" + clone->id));
  EXPECT_THAT(groups_in_pod(), IsEmpty());
}

TEST_F(PoolChargeTest, AnExactAcquireThatFailsLeavesNothingAndHoldsUpNobody) {
  start(Charge::kExact);
  pod_is_gone = true;
  for (int i = 0; i < 3; ++i) {
    const auto clone = acquire(kPod);
    ASSERT_FALSE(clone);
    EXPECT_TRUE(clone.error().is_errno(ENOENT)) << clone.error().message();
    EXPECT_THAT(clone.error().message(), HasSubstr("create cgroup " + kPod));
  }
  EXPECT_TRUE(pool->acquire({}, in(std::chrono::seconds(60)))) << "not held up by the pool's growing pauses";
  ASSERT_TRUE(bench.wait_until([&] { return pool->clones().size() == 1; }));
  EXPECT_THAT(groups_in_pod(), IsEmpty());
  EXPECT_THAT(pool->status().last_error, HasSubstr("create cgroup " + kPod));
  pod_is_gone = false;
  EXPECT_TRUE(acquire(kPod));
}

TEST_F(PoolChargeTest, ABurstOfExactAcquiresIsServedWithinMax) {
  start(Charge::kExact);
  std::vector<std::thread> callers;
  std::atomic<uint32_t> served = 0;
  const uint32_t max = bench.settings().max;
  for (uint32_t i = 0; i < max; ++i) {
    callers.emplace_back([&] { served += acquire(kPod) ? 1 : 0; });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(served, max);
  EXPECT_EQ(groups_in_pod().size(), max);
  EXPECT_FALSE(pool->acquire({}, in(std::chrono::milliseconds(10)), {.cgroup_parent = kPod}));
}

TEST_F(PoolChargeTest, ChargingChangesWhileThePoolRuns) {
  start();
  const auto held = acquire(kPod);
  ASSERT_TRUE(held);
  PoolLimits limits = bench.settings();
  limits.charge = Charge::kExact;
  EXPECT_TRUE(pool->resize(limits).error().is(Errc::kInvalidArgument)) << "with a size";
  limits.size = 0;
  ASSERT_TRUE(pool->resize(limits));
  ASSERT_TRUE(bench.wait_until([&] { return bench.spawner().list()->size() == 1; })) << "warm ones and shells go";
  const auto exact = acquire(kPod);
  ASSERT_TRUE(exact);
  EXPECT_FALSE(exact->warm);
  EXPECT_EQ(groups_in_pod().size(), 2U);
}

TEST_F(PoolChargeTest, AnAdoptedCloneKeepsItsResidueAndItsGroups) {
  start();
  const auto clone = acquire(kPod);
  ASSERT_TRUE(clone);
  pool->leave_running();
  pool.reset();
  EXPECT_EQ(groups.size(), 2U);
  start();
  ASSERT_TRUE(pool->adopt(*clone, "clone-" + clone->id, group_of(*clone)));
  EXPECT_EQ(pool->usage().residue_bytes, kCharged);
  EXPECT_FALSE(reserved.contains("clone-" + clone->id));
  EXPECT_TRUE(*pool->release(clone->id));
  EXPECT_THAT(groups_in_pod(), IsEmpty());
  EXPECT_FALSE(groups.contains("clone-" + clone->id));
}

TEST_F(PoolChargeTest, AnAdoptedCloneIsNotLostToALimitThatCannotBeRaised) {
  start();
  const auto clone = acquire("");
  ASSERT_TRUE(clone);
  pool->leave_running();
  pool.reset();
  start();
  {
    const std::lock_guard lock(mutex);
    limit_is_stuck = true;
  }
  const Status adopted = pool->adopt(*clone, "clone-" + clone->id);
  EXPECT_TRUE(adopted) << adopted.error().message();
  EXPECT_TRUE(*pool->release(clone->id));
}

}  // namespace
}  // namespace granary::pool
