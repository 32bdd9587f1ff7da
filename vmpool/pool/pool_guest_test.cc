// SPDX-License-Identifier: Apache-2.0
// The pool on the real granary-vmm and real guests: a tiny one (GRANARY_LINUX 0) or each Linux image (1).
#include <gtest/gtest.h>

#include <csignal>
#include <iostream>
#include <set>

#include "vmpool/guest/guest.pb.h"
#include "vmpool/pool/exec_session.h"
#include "vmpool/pool/linux_image.h"
#include "vmpool/pool/test_bench.h"

namespace granary::pool {
namespace {

SteadyTime in_time() { return SteadyClock::now() + std::chrono::seconds(GRANARY_LINUX ? 500 : 120); }

// The parameter: a guest image's name.
class PoolGuestTest : public testing::TestWithParam<const char*> {
 protected:
  PoolGuestTest() : bench(GRANARY_VMM, "/dev/kvm") {
    settings = bench.settings();
    settings.source = {
        .kernel_path = std::string(GRANARY_GUEST_DIR) + "/tiny-vsock.elf", .initramfs_path = "", .command_line = ""};
    if (GRANARY_LINUX) settings.source = linux_image(GetParam());
    settings.shape.memory_bytes = GRANARY_LINUX ? 256 * kMiB : 16 * kMiB;
    if (GRANARY_LINUX) settings.shape.devices = Shape{}.devices;
    settings.size = 2;
    bench.print_events = true;
    settings.boot_timeout = std::chrono::seconds(GRANARY_LINUX ? 400 : 120);
  }
  void SetUp() override {
    if (!GRANARY_LINUX) return;
    if (const std::string missing = missing_image(settings.source); !missing.empty()) GTEST_SKIP() << missing;
  }
  std::unique_ptr<Pool> start() {
    Result<std::unique_ptr<Pool>> pool = Pool::start(settings, bench.resources());
    EXPECT_TRUE(pool) << pool.error().message();
    return pool ? std::move(*pool) : nullptr;
  }
  // On failure the pool's own words.
  bool full(const Pool& pool) {
    const bool reached = bench.wait_until(
        [&] { return pool.status().warm == pool.status().target || bench.events("template-failed") > 0; });
    EXPECT_EQ(pool.status().template_state, "ready");
    return reached && pool.status().warm == pool.status().target;
  }
  TestBench bench;
  PoolSettings settings;
};

TEST_P(PoolGuestTest, BootsSnapshotsHandsOutAndReclaims) {
  const auto pool = start();
  ASSERT_TRUE(full(*pool)) << pool->status().last_error;
  std::set<std::string> boot_ids;
  std::vector<CloneInfo> clones;
  for (int i = 0; i < 3; ++i) {
    Result<CloneInfo> clone = pool->acquire({}, in_time());
    ASSERT_TRUE(clone) << clone.error().message();
    std::cout << "hand-over " << clone->handover.count() / 1000 << " us, warm " << clone->warm << ", boot id \""
              << clone->boot_id << "\"\n";
    boot_ids.insert(clone->boot_id);
    clones.push_back(std::move(*clone));
  }
  EXPECT_EQ(boot_ids.size(), GRANARY_LINUX ? 3U : 1U);
  for (const CloneInfo& clone : clones) EXPECT_TRUE(*pool->release(clone.id));
  EXPECT_EQ(pool->status().leaks, 0U) << pool->status().last_error;
}

TEST_P(PoolGuestTest, KilledVmmIsReplaced) {
  const auto pool = start();
  ASSERT_TRUE(full(*pool)) << pool->status().last_error;
  ASSERT_EQ(::kill(pool->clones().front().info.vmm_pid, SIGKILL), 0);
  ASSERT_TRUE(bench.wait_until([&] { return pool->status().reclaimed == 1; }));
  EXPECT_TRUE(full(*pool)) << pool->status().last_error;
  EXPECT_EQ(pool->status().leaks, 0U);
}

TEST_P(PoolGuestTest, TemplateFromDiskWorksLikeAFreshOne) {
  std::string key;
  {
    const auto pool = start();
    ASSERT_TRUE(full(*pool)) << pool->status().last_error;
    key = pool->status().template_key;
  }
  ASSERT_TRUE(bench.spawner().drop_template(key));
  const auto pool = start();
  ASSERT_TRUE(pool->acquire({}, in_time())) << pool->status().last_error;
  EXPECT_NE(bench.last_text("template-ready").find("loaded"), std::string::npos);
}

TEST_P(PoolGuestTest, CommandsRunInTheClone) {
  if (!GRANARY_LINUX) GTEST_SKIP() << "a tiny guest runs no commands";
  const auto pool = start();
  const Result<CloneInfo> clone = pool->acquire({.hostname = "granary-test"}, in_time());
  ASSERT_TRUE(clone) << clone.error().message();
  guest::v1::Exec request;
  for (const char* word : {"/bin/sh", "-c", "hostname; cat; exit 3"}) request.add_argv(word);
  request.add_env("PATH=/bin:/sbin:/usr/bin:/usr/sbin");
  request.set_has_stdin(true);
  const auto session = ExecSession::start(clone->socket_path, request, in_time());
  ASSERT_TRUE(session) << session.error().message();
  ASSERT_TRUE((*session)->write_stdin("to cat\n", in_time()));
  ASSERT_TRUE((*session)->close_stdin());
  std::string output;
  for (;;) {
    const Result<std::optional<ExecEvent>> event = (*session)->next(in_time());
    ASSERT_TRUE(event && *event);
    output += (*event)->data;
    if ((*event)->kind != ExecEvent::Kind::kExited) continue;
    EXPECT_EQ((*event)->exit_status, 3);
    break;
  }
  EXPECT_EQ(output, "granary-test\nto cat\n");
}

std::string name_of(const testing::TestParamInfo<const char*>& info) { return info.param; }
#if GRANARY_LINUX
INSTANTIATE_TEST_SUITE_P(Guest, PoolGuestTest, testing::Values("distro", "minimal"), name_of);
#else
INSTANTIATE_TEST_SUITE_P(Guest, PoolGuestTest, testing::Values("tiny"), name_of);
#endif

}  // namespace
}  // namespace granary::pool
