// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "vmpool/pool/pool.h"
#include "vmpool/pool/test_bench.h"

namespace granary::pool {
namespace {

SteadyTime soon() { return std::chrono::steady_clock::now() + std::chrono::seconds(60); }

// How the pool gets its template, and what it makes of VMMs and guests that misbehave.
class PoolTemplateTest : public testing::Test {
 protected:
  std::unique_ptr<Pool> start(const PoolSettings& settings) {
    Result<std::unique_ptr<Pool>> pool = Pool::start(settings, bench.resources());
    EXPECT_TRUE(pool) << pool.error().message();
    return pool ? std::move(*pool) : nullptr;
  }
  // Starts with `behaviour`, expects the template to fail with `text`, then to come once all behaves.
  void expect_template_failure(const std::string& behaviour, const std::string& text, PoolSettings settings) {
    bench.set_behaviour(behaviour);
    const auto pool = start(settings);
    ASSERT_TRUE(bench.wait_until([&] { return bench.events("template-failed") > 0; })) << behaviour;
    EXPECT_NE(bench.last_text("template-failed").find(text), std::string::npos) << bench.last_text("template-failed");
    bench.set_behaviour("");
    EXPECT_TRUE(pool->acquire({}, soon())) << behaviour;
    EXPECT_EQ(pool->status().leaks, 0U);
    EXPECT_EQ(pool->status().template_state, "ready");
  }
  TestBench bench;
};

TEST_F(PoolTemplateTest, NeverReadyNamesTheTimeAndTheConsole) {
  PoolSettings settings = bench.settings();
  settings.boot_timeout = std::chrono::milliseconds(30);
  expect_template_failure("never-ready", "fake kernel says hello", settings);
}
TEST_F(PoolTemplateTest, DiesAtBoot) { expect_template_failure("die-at-boot", "the VMM ended", bench.settings()); }
TEST_F(PoolTemplateTest, DiesAtShell) {
  expect_template_failure("die-at-create-shell", "the VMM ended", bench.settings());
}
TEST_F(PoolTemplateTest, DiesAtSnapshot) {
  expect_template_failure("die-at-snapshot", "the VMM ended", bench.settings());
}
TEST_F(PoolTemplateTest, RefusesBoot) {
  expect_template_failure("error-at-boot", "fake refuses boot", bench.settings());
}
TEST_F(PoolTemplateTest, GarbageProbe) { expect_template_failure("garbage-probe", "garbage", bench.settings()); }
TEST_F(PoolTemplateTest, WrongNonce) { expect_template_failure("wrong-nonce", "another nonce", bench.settings()); }
TEST_F(PoolTemplateTest, SilentProbe) {
  PoolSettings settings = bench.settings();
  settings.probe_timeout = std::chrono::milliseconds(30);
  expect_template_failure("silent-probe", "probe", settings);
}

TEST_F(PoolTemplateTest, SecondPoolLoadsWhatTheFirstBuilt) {
  const std::string key = [&] {
    const auto pool = start(bench.settings());
    EXPECT_TRUE(pool->acquire({}, soon()));
    return pool->status().template_key;
  }();
  // As after a restart of the spawner: only the disk has it.
  ASSERT_TRUE(bench.spawner().drop_template(key));
  const auto pool = start(bench.settings());
  ASSERT_TRUE(pool->acquire({}, soon()));
  EXPECT_EQ(pool->status().template_key, key);
  // Told after the first clone may have been taken.
  EXPECT_TRUE(bench.wait_until([&] { return bench.last_text("template-ready").find("loaded") != std::string::npos; }));
}

TEST_F(PoolTemplateTest, SpawnerKeepsTheTemplateOverAnAgentRestart) {
  { ASSERT_TRUE(start(bench.settings())->acquire({}, soon())); }
  const Result<std::vector<TemplateInfo>> stored = bench.templates().list();
  ASSERT_EQ(stored->size(), 1U);
  ASSERT_TRUE(*bench.templates().remove(stored->front().key));
  ASSERT_TRUE(start(bench.settings())->acquire({}, soon()));
  // Told after the first clone may have been taken.
  EXPECT_TRUE(bench.wait_until([&] { return bench.last_text("template-ready").find("kept by the spawner") != std::string::npos; }));
}

TEST_F(PoolTemplateTest, ChangedKernelIsAnotherTemplate) {
  std::string key;
  {
    const auto pool = start(bench.settings());
    ASSERT_TRUE(pool->acquire({}, soon()));
    key = pool->status().template_key;
  }
  std::ofstream(bench.path("kernel")) << "another kernel";
  const auto pool = start(bench.settings());
  ASSERT_TRUE(pool->acquire({}, soon()));
  EXPECT_NE(pool->status().template_key, key);
  // Told after the first clone may have been taken.
  EXPECT_TRUE(bench.wait_until([&] { return bench.last_text("template-ready").find("built") != std::string::npos; }));
}

TEST_F(PoolTemplateTest, DamagedTemplateIsRebuiltWithTheReason) {
  std::string key;
  {
    const auto pool = start(bench.settings());
    ASSERT_TRUE(pool->acquire({}, soon()));
    key = pool->status().template_key;
  }
  ASSERT_TRUE(bench.spawner().drop_template(key));
  std::filesystem::resize_file(bench.path("templates/" + key + "/state"), 10);
  const auto pool = start(bench.settings());
  ASSERT_TRUE(pool->acquire({}, soon()));
  EXPECT_EQ(pool->status().template_key, key);
  // Told after the first clone may have been taken.
  EXPECT_TRUE(bench.wait_until([&] { return bench.last_text("template-ready").find("built") != std::string::npos; }));
  EXPECT_TRUE(bench.templates().load(key));
}

TEST_F(PoolTemplateTest, RebuildReplacesIdleClonesAndSparesRunningOnes) {
  const auto pool = start(bench.settings());
  const Result<CloneInfo> running = pool->acquire({}, soon());
  ASSERT_TRUE(running);
  ASSERT_TRUE(bench.wait_until([&] { return pool->status().warm == 3; }));
  std::set<std::string> old;
  for (const CloneStatus& clone : pool->clones()) old.insert(clone.info.id);
  std::vector<std::string> lines;
  ASSERT_TRUE(pool->rebuild_template([&](const std::string& line) { lines.push_back(line); }));
  EXPECT_GE(lines.size(), 5U);
  EXPECT_EQ(lines.back(), "100% ready");
  ASSERT_TRUE(bench.wait_until([&] { return pool->status().warm == 3 && pool->status().reclaimed == 3; }));
  for (const CloneStatus& clone : pool->clones()) {
    EXPECT_EQ(old.contains(clone.info.id), clone.info.id == running->id) << clone.state;
  }
  EXPECT_TRUE(*pool->release(running->id));
}

TEST_F(PoolTemplateTest, FailedRebuildKeepsTheOldTemplate) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(pool->acquire({}, soon()));
  bench.set_behaviour("error-at-snapshot");
  EXPECT_FALSE(pool->rebuild_template([](const std::string&) {}));
  EXPECT_EQ(pool->status().template_state, "ready");
  EXPECT_TRUE(pool->acquire({}, soon()));
}

TEST_F(PoolTemplateTest, ClonesThatFailAreReclaimedAndBackedOff) {
  PoolSettings settings = bench.settings();
  settings.probe_timeout = std::chrono::milliseconds(20);
  const auto pool = start(settings);
  ASSERT_TRUE(bench.wait_until([&] { return pool->status().warm == 3; }));
  for (const char* behaviour : {"error-at-restore", "die-at-restore", "garbage-control", "silent-probe",
                                "garbage-probe", "die-at-probe", "wrong-nonce", "error-at-park", "die-at-park"}) {
    bench.set_behaviour(behaviour);
    const size_t failures = bench.events("clone-failed");
    const Result<CloneInfo> clone = pool->acquire({}, soon());
    ASSERT_TRUE(clone) << behaviour << ": " << clone.error().message();
    ASSERT_TRUE(bench.wait_until([&] { return bench.events("clone-failed") >= failures + 2; })) << behaviour;
    EXPECT_NE(pool->status().last_error, "");
    EXPECT_LE(pool->status().restoring, settings.refill_concurrency);
    EXPECT_TRUE(*pool->release(clone->id));
    bench.set_behaviour("");
    ASSERT_TRUE(bench.wait_until([&] { return pool->status().warm == 3; })) << behaviour;
  }
  EXPECT_EQ(pool->status().leaks, 0U);
}

TEST_F(PoolTemplateTest, DestructionInTheMiddleOfABuild) {
  bench.set_behaviour("never-ready");
  {
    const auto pool = start(bench.settings());
    ASSERT_TRUE(
        bench.wait_until([&] { return bench.last_text("template-building").find("booting") != std::string::npos; }));
  }
  EXPECT_EQ(bench.spawner().list()->size(), 0U);
  EXPECT_TRUE(bench.groups().empty());
}

TEST_F(PoolTemplateTest, OpenVsockConnectionsForbidASnapshot) {
  bench.set_behaviour("open-vsock");
  const auto pool = start(bench.settings());
  ASSERT_TRUE(
      bench.wait_until([&] { return bench.last_text("template-building").find("quiescent") != std::string::npos; }));
  EXPECT_TRUE(bench.templates().list()->empty());
  bench.set_behaviour("");
  EXPECT_TRUE(pool->acquire({}, soon()));
}

}  // namespace
}  // namespace granary::pool
