// SPDX-License-Identifier: Apache-2.0
// On the host's real cgroups. Skips, with the reason, where none can be made.
#include "agent/cgroup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace granary::agent {
namespace {

class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = Cgroups::open(parent_);
    if (!opened) {
      const Error& error = opened.error();
      const bool not_here =
          error.is_errno(ENODEV) || error.is_errno(EACCES) || error.is_errno(EPERM) || error.is_errno(EROFS);
      ASSERT_TRUE(not_here) << error.message();
      GTEST_SKIP() << "no cgroups here: " << error.message();
    }
    groups_ = *std::move(opened);
  }
  void TearDown() override {
    if (groups_) {
      EXPECT_TRUE(groups_->remove_parent());
    }
  }
  const std::string parent_ = "granary-test-" + std::to_string(getpid()) + ".slice/pool";
  std::unique_ptr<Cgroups> groups_;
};

// A child that waits until its pipe is closed.
class Sleeper {
 public:
  Sleeper() {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    pid_ = fork();
    if (pid_ == 0) {
      close(ends[1]);
      char byte;
      _exit(read(ends[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(ends[0]);
    stop_ = Fd(ends[1]);
  }
  ~Sleeper() { end(); }
  void end() {
    stop_.reset();
    if (pid_ > 0) waitpid(std::exchange(pid_, 0), nullptr, 0);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  Fd stop_;
};

TEST_F(CgroupTest, CreateAndRemoveAreIdempotent) {
  const auto first = groups_->create("clone-a");
  ASSERT_TRUE(first) << first.error().message();
  EXPECT_EQ(first->valid(), groups_->version() == Cgroups::Version::kV2);
  EXPECT_TRUE(groups_->create("clone-a"));
  const auto removed = groups_->remove("clone-a");
  ASSERT_TRUE(removed) << removed.error().message();
  EXPECT_TRUE(*removed);
  const auto again = groups_->remove("clone-a");
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_FALSE(*again);
}

TEST_F(CgroupTest, AGroupWithAProcessIsNotRemovedAndTheProcessStays) {
  ASSERT_TRUE(groups_->create("clone-b"));
  Sleeper sleeper;
  const auto added = groups_->add("clone-b", sleeper.pid());
  ASSERT_TRUE(added) << added.error().message();
  const auto busy = groups_->remove("clone-b");
  ASSERT_FALSE(busy);
  EXPECT_TRUE(busy.error().is_errno(EBUSY)) << busy.error().message();
  EXPECT_THAT(busy.error().message(), testing::HasSubstr(std::to_string(sleeper.pid())));
  EXPECT_FALSE(groups_->remove_parent());
  const auto membership = read_file("/proc/" + std::to_string(sleeper.pid()) + "/cgroup");
  ASSERT_TRUE(membership);
  EXPECT_THAT(*membership, testing::HasSubstr("/pool/clone-b"));
  sleeper.end();
  const auto removed = groups_->remove("clone-b");
  ASSERT_TRUE(removed) << removed.error().message();
  EXPECT_TRUE(*removed);
}

TEST_F(CgroupTest, OnlyTheOnlyAgentRemovesLeftovers) {
  ASSERT_TRUE(groups_->create("clone-d"));
  ASSERT_TRUE(groups_->create("clone-e"));
  Sleeper sleeper;
  ASSERT_TRUE(groups_->add("clone-e", sleeper.pid()));
  {
    const auto other = Cgroups::open(parent_);
    ASSERT_TRUE(other) << other.error().message();
    EXPECT_EQ((*other)->remove_leftovers(), 0u);
    EXPECT_EQ(groups_->remove_leftovers(), 0u);
  }
  EXPECT_EQ(groups_->remove_leftovers(), 1u);
  sleeper.end();
  EXPECT_EQ(groups_->remove_leftovers(), 1u);
}

TEST_F(CgroupTest, AddingAMissingProcessNamesIt) {
  ASSERT_TRUE(groups_->create("clone-c"));
  const auto added = groups_->add("clone-c", 0x3ffffff);
  ASSERT_FALSE(added);
  EXPECT_THAT(added.error().message(), testing::HasSubstr("67108863"));
  EXPECT_TRUE(groups_->remove("clone-c"));
}

}  // namespace
}  // namespace granary::agent
