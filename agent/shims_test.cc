// SPDX-License-Identifier: Apache-2.0
#include "agent/shims.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>

#include "vmpool/pool/test_bench.h"

namespace granary::agent {
namespace {

namespace fs = std::filesystem;

class ShimsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: granary-spawn jails its VMMs";
    fs::create_directory(bench_.path("tasks"));
    auto vm = bench_.spawner().spawn();
    ASSERT_TRUE(vm) << vm.error().message();
    clone_.id = "clone";
    clone_.vm = vm->vm;
    vm_ = std::move(*vm);
    shims_ = make();
  }
  std::unique_ptr<Shims> make() {
    return std::make_unique<Shims>(
        bench_.spawner(),
        Shims::Paths{.directory = bench_.path("tasks"), .agent_socket = "/agent.sock", .events_socket = ""});
  }
  std::set<std::string> sockets() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(bench_.path("tasks"))) names.insert(entry.path().filename());
    return names;
  }
  size_t running() { return bench_.spawner().list_shims()->size(); }

  pool::TestBench bench_;
  pool::SpawnedVm vm_;
  pool::CloneInfo clone_;
  std::unique_ptr<Shims> shims_;
};

TEST_F(ShimsTest, StartAndStopAreIdempotentAndLeaveNothing) {
  EXPECT_EQ(shims_->address("s1"), "ttrpc+unix://" + bench_.path("tasks") + "/s1.sock");
  ASSERT_TRUE(shims_->start("s1", clone_));
  ASSERT_TRUE(shims_->start("s1", clone_));
  EXPECT_EQ(running(), 1U);
  EXPECT_THAT(sockets(), ::testing::ElementsAre("s1.sock"));
  ASSERT_TRUE(shims_->stop("s1"));
  ASSERT_TRUE(shims_->stop("s1"));
  EXPECT_EQ(running(), 0U);
  EXPECT_TRUE(sockets().empty());
}

TEST_F(ShimsTest, OneThatCannotStartLeavesNoSocket) {
  clone_.vm = VmId{99};
  EXPECT_TRUE(shims_->start("s1", clone_).error().is(Errc::kCloneUnknown));
  EXPECT_TRUE(sockets().empty());
  EXPECT_TRUE(shims_->start(std::string(128, 'x'), clone_).error().is(Errc::kInvalidArgument));
}

TEST_F(ShimsTest, TheNextAgentKeepsWhatIsHeldAndEndsTheRest) {
  ASSERT_TRUE(shims_->start("held", clone_));
  ASSERT_TRUE(shims_->start("orphan", clone_));
  std::ofstream(bench_.path("tasks") + "/stale.sock") << "";
  const auto next = make();
  EXPECT_TRUE(next->reconcile({"held", "another"}).empty());
  EXPECT_EQ(running(), 1U);
  EXPECT_THAT(sockets(), ::testing::ElementsAre("held.sock"));
  ASSERT_TRUE(next->start("held", clone_));
  EXPECT_EQ(running(), 1U);
  ASSERT_TRUE(next->stop("held"));
  EXPECT_EQ(running(), 0U);
}

TEST_F(ShimsTest, OneThatEndedWhileNoAgentRanIsKnownToBeLost) {
  ASSERT_TRUE(shims_->start("s1", clone_));
  ASSERT_TRUE(shims_->start("s2", clone_));
  shims_.reset();
  ASSERT_TRUE(bench_.spawner().stop_shim("s1"));
  shims_ = make();
  EXPECT_TRUE(shims_->reconcile({"s1", "s2", ""}).empty());
  EXPECT_TRUE(shims_->was_lost("s1"));
  EXPECT_FALSE(shims_->was_lost("s2"));
  EXPECT_FALSE(shims_->was_lost(""));
  EXPECT_THAT(sockets(), ::testing::ElementsAre("s2.sock"));
  EXPECT_TRUE(shims_->stop("s2"));
}

TEST_F(ShimsTest, DifferencesAreNamed) {
  Lease lease{.owner_id = "cri/s1", .pool = "p", .clone = {}};
  ASSERT_TRUE(shims_->start("s1", clone_));
  EXPECT_THAT(shims_->differences({lease}), ::testing::IsEmpty());
  std::ofstream(bench_.path("tasks") + "/stale.sock") << "";
  EXPECT_THAT(shims_->differences({lease}), ::testing::ElementsAre(::testing::HasSubstr("stale.sock belongs to no shim")));
  fs::remove(bench_.path("tasks") + "/stale.sock");
  fs::remove(bench_.path("tasks") + "/s1.sock");
  EXPECT_THAT(shims_->differences({lease}), ::testing::ElementsAre(::testing::HasSubstr("s1.sock is not there")));
  EXPECT_THAT(make()->differences({}), ::testing::ElementsAre(::testing::HasSubstr("serves no sandbox (s1)")));
  ASSERT_TRUE(bench_.spawner().stop_shim("s1"));
  EXPECT_THAT(shims_->differences({lease}), ::testing::Contains(::testing::HasSubstr("its shim does not run")));
  EXPECT_THAT(shims_->differences({}), ::testing::IsEmpty());
  ASSERT_TRUE(shims_->stop("s1"));
}

TEST_F(ShimsTest, AnEndIsTold) {
  std::promise<std::string> ended;
  bench_.spawner().on_shim_exit(
      [&](const control::ShimRecord& record) { ended.set_value(control::text_of(record.shim.sandbox_id)); });
  ASSERT_TRUE(shims_->start("s1", clone_));
  ::kill((*bench_.spawner().list_shims())[0].pid, SIGKILL);
  EXPECT_EQ(ended.get_future().get(), "s1");
  bench_.spawner().on_shim_exit({});
  ASSERT_TRUE(shims_->stop("s1"));
}

}  // namespace
}  // namespace granary::agent
