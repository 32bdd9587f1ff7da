// SPDX-License-Identifier: Apache-2.0
// How long a template serves, and whom.
#include <gtest/gtest.h>

#include "vmpool/pool/deadline.h"
#include "vmpool/pool/pool.h"
#include "vmpool/pool/template_builder.h"
#include "vmpool/pool/test_bench.h"

namespace granary::pool {
namespace {

SteadyTime soon() { return SteadyClock::now() + std::chrono::minutes(1); }

class PoolRotationTest : public testing::Test {
 protected:
  PoolRotationTest() { settings.size = 1; }
  std::unique_ptr<Pool> start() {
    Result<std::unique_ptr<Pool>> pool = Pool::start(settings, bench.resources());
    EXPECT_TRUE(pool) << pool.error().message();
    return pool ? std::move(*pool) : nullptr;
  }
  std::string key() const { return template_inputs(settings, "build", "cpu=any")->key(); }

  TestBench bench;
  PoolSettings settings = bench.settings();
};

TEST_F(PoolRotationTest, ATemplateMakesSoManyClonesAndTheNextOneGoesOn) {
  settings.template_max_clones = 2;
  const auto pool = start();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(pool->acquire({}, soon())) << pool->status().last_error;
  EXPECT_TRUE(bench.wait_until([&] { return bench.events("template-ready") >= 3; }));
  ASSERT_TRUE(bench.wait_until([&] { return pool->status().warm == 1; }));
  EXPECT_EQ(pool->status().running, 5U);
  EXPECT_EQ(pool->status().reclaimed, 0U) << "idle clones within the number stay";
}

TEST_F(PoolRotationTest, AUsedUpTemplateMakesNoCloneWhileItsSuccessorFails) {
  settings.template_max_clones = 1;
  const auto pool = start();
  ASSERT_TRUE(bench.wait_until([&] { return pool->status().template_state == "ready"; }));
  bench.set_behaviour("error-at-snapshot");
  // One successor may have been built before.
  Result<CloneInfo> clone = pool->acquire({}, soon());
  for (int i = 0; i < 3 && clone; ++i) clone = pool->acquire({}, SteadyClock::now() + std::chrono::milliseconds(200));
  ASSERT_FALSE(clone);
  EXPECT_TRUE(clone.error().is(Errc::kPoolEmpty));
  EXPECT_TRUE(bench.wait_until([&] { return bench.events("template-failed") >= 1; }));
  bench.set_behaviour("");
  EXPECT_TRUE(pool->acquire({}, soon()));
}

TEST_F(PoolRotationTest, AnOldTemplateIsReplacedWithItsIdleClonesNotTheRunningOnes) {
  settings.template_max_age = std::chrono::milliseconds(300);
  const auto pool = start();
  const Result<CloneInfo> running = pool->acquire({}, soon());
  ASSERT_TRUE(running);
  EXPECT_TRUE(bench.wait_until([&] { return bench.events("template-ready") >= 3 && pool->status().reclaimed >= 1; }));
  EXPECT_EQ(pool->status().running, 1U);
  EXPECT_TRUE(*pool->release(running->id));
}

TEST_F(PoolRotationTest, ANewMaxAgeCountsFromTheBuild) {
  const auto pool = start();
  ASSERT_TRUE(pool->acquire({}, soon()));
  PoolLimits limits = pool->settings();
  limits.template_max_age = std::chrono::milliseconds(1);
  ASSERT_TRUE(pool->resize(limits));
  EXPECT_TRUE(bench.wait_until([&] { return bench.events("template-ready") >= 2; }));
}

TEST_F(PoolRotationTest, AStoredTemplateKeepsItsAgeOverARestart) {
  settings.template_max_age = std::chrono::hours(1);
  ASSERT_TRUE(start()->acquire({}, soon()));
  ASSERT_TRUE(start()->acquire({}, soon()));
  // Told after the first clone may have been taken.
  EXPECT_TRUE(bench.wait_until([&] { return bench.last_text("template-ready").find("kept by the spawner") != std::string::npos; }));
  TemplateInfo info = bench.templates().list()->front();
  info.created_unix_s -= 3601;
  ASSERT_TRUE(bench.templates().save(info, *bench.templates().load(info.key)));
  ASSERT_TRUE(start()->acquire({}, soon()));
  // Told after the first clone may have been taken.
  EXPECT_TRUE(bench.wait_until([&] { return bench.last_text("template-ready").find("built") != std::string::npos; }));
}

TEST_F(PoolRotationTest, SharingNoneGivesEachCloneATemplateThatNobodyElseSees) {
  settings.sharing = Sharing::kNone;
  const auto pool = start();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pool->acquire({}, soon()));
  EXPECT_TRUE(bench.wait_until([&] { return bench.events("template-ready") >= 3; }));
  EXPECT_TRUE(bench.templates().list()->empty());
  EXPECT_FALSE(bench.spawner().get_template(pool->status().template_key));
}

TEST_F(PoolRotationTest, ASpawnerOfAnotherVmmBuildMakesTheTemplateAnew) {
  const auto pool = start();
  ASSERT_TRUE(bench.wait_until([&] { return pool->status().warm == 1; }));
  const std::string old_key = pool->status().template_key;
  pool->spawner_replaced();
  EXPECT_EQ(pool->status().template_key, old_key) << "the same build goes on with its template";
  bench.set_vmm_build("another");
  bench.set_behaviour("error-at-snapshot");
  pool->spawner_replaced();
  ASSERT_TRUE(bench.wait_until([&] { return bench.events("template-failed") >= 1; }));
  EXPECT_EQ(pool->status().template_key, "") << "the old one is for another build";
  EXPECT_FALSE(pool->acquire({}, SteadyClock::now() + std::chrono::milliseconds(50)));
  bench.set_behaviour("");
  const Result<CloneInfo> after = pool->acquire({}, soon());
  ASSERT_TRUE(after) << after.error().message();
  EXPECT_NE(after->template_key, old_key);
  EXPECT_EQ(after->template_key, template_inputs(settings, "another", "cpu=fake\nkernel=fake\n")->key());
}

TEST_F(PoolRotationTest, ATemplateThatWasBuiltWhileTheVmmChangedIsNotTaken) {
  PoolResources resources = bench.resources();
  resources.on_event = [this, pass_on = resources.on_event](const Event& event) {
    if (event.text.starts_with("95%")) bench.set_vmm_build("another");  // it is built, and not yet taken
    pass_on(event);
  };
  const auto pool = Pool::start(settings, std::move(resources));
  ASSERT_TRUE(pool) << pool.error().message();
  const Result<CloneInfo> clone = (*pool)->acquire({}, soon());
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_EQ(clone->template_key, template_inputs(settings, "another", "cpu=fake\nkernel=fake\n")->key());
  EXPECT_EQ(bench.events("template-failed"), 1U);
}

TEST_F(PoolRotationTest, SharingSaysWhetherPoolsHaveOneKey) {
  const std::string shared = key();
  settings.name = "other";
  EXPECT_EQ(key(), shared);
  settings.sharing = Sharing::kPool;
  const std::string own = key();
  EXPECT_NE(own, shared);
  settings.name = "third";
  EXPECT_NE(key(), own);
}

}  // namespace
}  // namespace granary::pool
