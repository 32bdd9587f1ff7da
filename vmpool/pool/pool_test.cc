// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/pool.h"

#include <gtest/gtest.h>

#include <csignal>
#include <set>
#include <thread>

#include "vmpool/pool/test_bench.h"

namespace granary::pool {
namespace {

SteadyTime in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }
const auto kLong = std::chrono::milliseconds(60'000);

class PoolTest : public testing::Test {
 protected:
  std::unique_ptr<Pool> start(const PoolSettings& settings) {
    Result<std::unique_ptr<Pool>> pool = Pool::start(settings, bench.resources());
    EXPECT_TRUE(pool) << pool.error().message();
    return pool ? std::move(*pool) : nullptr;
  }
  bool full(const Pool& pool) {
    return bench.wait_until([&] { return pool.status().warm == pool.status().target; });
  }
  TestBench bench;
};

TEST_F(PoolTest, FillsHandsOutRefillsAndReleases) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(full(*pool)) << pool->status().last_error;
  const Result<CloneInfo> clone = pool->acquire({.hostname = "web"}, in(kLong));
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_EQ(clone->hostname, "web");
  EXPECT_EQ(clone->boot_id, "fake-boot-id");
  EXPECT_TRUE(clone->warm);
  EXPECT_EQ(::kill(clone->vmm_pid, 0), 0);
  ASSERT_TRUE(full(*pool));
  EXPECT_EQ(pool->status().running, 1U);
  EXPECT_EQ(pool->status().hits, 1U);

  Result<bool> released = pool->release(clone->id);
  ASSERT_TRUE(released);
  EXPECT_TRUE(*released);
  EXPECT_FALSE(std::filesystem::exists(clone->socket_path));
  EXPECT_FALSE(bench.groups().contains("clone-" + clone->id));
  released = pool->release(clone->id);
  ASSERT_TRUE(released);
  EXPECT_FALSE(*released);
  EXPECT_EQ(pool->status().leaks, 0U);
  EXPECT_EQ(pool->status().running, 0U);
}

TEST_F(PoolTest, BurstOf32GetsDistinctClones) {
  PoolSettings settings = bench.settings();
  settings.max = 40;
  settings.size = 4;
  const auto pool = start(settings);
  std::mutex mutex;
  std::set<std::string> ids;
  std::vector<std::thread> threads;
  for (int i = 0; i < 32; ++i) {
    threads.emplace_back([&] {
      const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
      ASSERT_TRUE(clone) << clone.error().message();
      const std::lock_guard lock(mutex);
      ids.insert(clone->id);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ids.size(), 32U);
  const PoolStatus status = pool->status();
  EXPECT_EQ(status.running, 32U);
  EXPECT_EQ(status.hits + status.waited, 32U);
  EXPECT_GT(status.waited, 0U);
  for (const std::string& id : ids) EXPECT_TRUE(*pool->release(id));
  EXPECT_EQ(pool->status().leaks, 0U);
}

TEST_F(PoolTest, FullPoolSaysWhyItIsEmpty) {
  PoolSettings settings = bench.settings();
  settings.size = 1;
  settings.max = 1;
  const auto pool = start(settings);
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone);
  const Result<CloneInfo> second = pool->acquire({}, in(std::chrono::milliseconds(10)));
  ASSERT_FALSE(second);
  EXPECT_TRUE(second.error().is(Errc::kPoolEmpty));
  EXPECT_NE(second.error().message().find("1 running of at most 1, template ready"), std::string::npos)
      << second.error().message();
  EXPECT_EQ(pool->status().failed, 1U);
  ASSERT_TRUE(pool->release(clone->id));
  EXPECT_TRUE(pool->acquire({}, in(kLong)));
}

TEST_F(PoolTest, SizeZeroRestoresOnDemand) {
  PoolSettings settings = bench.settings();
  settings.size = 0;
  const auto pool = start(settings);
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_FALSE(clone->warm);
  EXPECT_EQ(pool->status().waited, 1U);
}

TEST_F(PoolTest, KilledWarmCloneIsReplaced) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(full(*pool));
  const CloneInfo victim = pool->clones().front().info;
  ASSERT_EQ(::kill(victim.vmm_pid, SIGKILL), 0);
  ASSERT_TRUE(bench.wait_until([&] { return pool->status().reclaimed == 1; }));
  ASSERT_TRUE(full(*pool));
  for (const CloneStatus& clone : pool->clones()) EXPECT_NE(clone.info.id, victim.id);
  EXPECT_EQ(pool->status().leaks, 0U);
}

TEST_F(PoolTest, KilledRunningCloneIsToldOnceAndReclaimed) {
  const auto pool = start(bench.settings());
  std::mutex mutex;
  std::vector<std::string> told;
  pool->on_clone_ended([&](const std::string& id, EndState state, const std::string& reason) {
    const std::lock_guard lock(mutex);
    EXPECT_EQ(state, EndState::kLost);
    EXPECT_NE(reason.find("killed by signal 9"), std::string::npos) << reason;
    told.push_back(id);
  });
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone);
  ASSERT_EQ(::kill(clone->vmm_pid, SIGKILL), 0);
  ASSERT_TRUE(bench.wait_until([&] { return pool->status().reclaimed == 1; }));
  EXPECT_EQ(told, std::vector<std::string>{clone->id});
  EXPECT_FALSE(*pool->release(clone->id));
  EXPECT_EQ(pool->status().leaks, 0U);
}

TEST_F(PoolTest, BadHostnameCostsNoClone) {
  const auto pool = start(bench.settings());
  ASSERT_TRUE(full(*pool));
  EXPECT_TRUE(pool->acquire({.hostname = "a b"}, in(kLong)).error().is(Errc::kInvalidArgument));
  EXPECT_TRUE(pool->acquire({.hostname = std::string(64, 'a')}, in(kLong)).error().is(Errc::kInvalidArgument));
  EXPECT_EQ(pool->status().warm, 3U);
}

TEST_F(PoolTest, UnremovableCgroupIsCountedByName) {
  const auto pool = start(bench.settings());
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone);
  ASSERT_TRUE(full(*pool));
  bench.fail_group_removal = true;
  ASSERT_TRUE(pool->release(clone->id));
  bench.fail_group_removal = false;
  EXPECT_EQ(pool->status().leaks, 1U);
  EXPECT_NE(pool->status().last_error.find("cgroup clone-" + clone->id), std::string::npos);
}

TEST_F(PoolTest, DrainEndsIdleClonesAndRefusesNewOnes) {
  const auto pool = start(bench.settings());
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone);
  pool->drain(false);
  EXPECT_EQ(pool->status().warm, 0U);
  EXPECT_EQ(pool->status().running, 1U);
  EXPECT_TRUE(pool->acquire({}, in(kLong)).error().is(Errc::kShuttingDown));
  EXPECT_EQ(bench.spawner().list()->size(), 1U);
  pool->drain(true);
  EXPECT_EQ(bench.spawner().list()->size(), 0U);
  EXPECT_TRUE(bench.groups().empty());
  EXPECT_TRUE(bench.sockets().empty());
}

TEST_F(PoolTest, WaitingAcquireEndsWithTheDrain) {
  PoolSettings settings = bench.settings();
  settings.size = 1;
  settings.max = 1;
  const auto pool = start(settings);
  ASSERT_TRUE(pool->acquire({}, in(kLong)));
  std::thread waiting([&] { EXPECT_TRUE(pool->acquire({}, in(kLong)).error().is(Errc::kShuttingDown)); });
  ASSERT_TRUE(bench.wait_until([&] { return bench.events("pool-empty") > 0; }));
  pool->drain(true);
  waiting.join();
}

TEST_F(PoolTest, DestructionLeavesNothing) {
  {
    const auto pool = start(bench.settings());
    ASSERT_TRUE(pool->acquire({}, in(kLong)));
  }
  EXPECT_EQ(bench.spawner().list()->size(), 0U);
  EXPECT_TRUE(bench.groups().empty());
  EXPECT_TRUE(bench.sockets().empty());
}

TEST_F(PoolTest, ConsoleAndClones) {
  const auto pool = start(bench.settings());
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong));
  ASSERT_TRUE(clone);
  EXPECT_TRUE(pool->console(clone->id));
  EXPECT_TRUE(pool->console("nobody").error().is(Errc::kCloneUnknown));
  bool seen = false;
  for (const CloneStatus& status : pool->clones()) {
    if (status.info.id != clone->id) continue;
    seen = true;
    EXPECT_EQ(status.state, "running");
    EXPECT_GT(status.memory_bytes, 0U);
  }
  EXPECT_TRUE(seen);
}

TEST_F(PoolTest, SettingsAreChecked) {
  const auto code = [&](auto change) {
    PoolSettings settings = bench.settings();
    change(settings);
    const Result<std::unique_ptr<Pool>> pool = Pool::start(settings, bench.resources());
    return pool ? std::error_code() : pool.error().code();
  };
  EXPECT_EQ(code([](PoolSettings& s) { s.shape.memory_bytes = 4097; }), make_error_code(Errc::kMemoryOutOfRange));
  EXPECT_EQ(code([](PoolSettings& s) { s.shape.vcpus = 9; }), make_error_code(Errc::kVcpusOutOfRange));
  EXPECT_EQ(code([](PoolSettings& s) { s.source.kernel_path += "x"; }), make_error_code(Errc::kKernelMissing));
  EXPECT_EQ(code([](PoolSettings& s) { s.source.initramfs_path += "x"; }), make_error_code(Errc::kInitramfsMissing));
  EXPECT_EQ(code([](PoolSettings& s) { s.source.command_line.assign(2048, 'x'); }),
            make_error_code(Errc::kCommandLineTooLong));
  EXPECT_EQ(code([](PoolSettings& s) { s.size = 9; }), make_error_code(Errc::kInvalidArgument));
  EXPECT_EQ(code([](PoolSettings& s) { s.refill_concurrency = 0; }), make_error_code(Errc::kInvalidArgument));
}

}  // namespace
}  // namespace granary::pool
