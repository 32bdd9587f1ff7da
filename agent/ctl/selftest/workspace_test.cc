// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/workspace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace granary::ctl::selftest {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

class WorkspaceTest : public testing::Test {
 protected:
  WorkspaceTest() {
    fs::create_directory(tmp_);
    ::setenv("TMPDIR", tmp_.c_str(), 1);
  }
  ~WorkspaceTest() override {
    ::unsetenv("TMPDIR");
    fs::remove_all(tmp_);
  }
  std::string with_file(const std::string& name) const {
    const std::string folder = tmp_ + "/" + name;
    fs::create_directory(folder);
    std::ofstream(folder + "/granary.yaml") << "x";
    return folder;
  }
  std::string tmp_ = testing::TempDir() + "workspace_test." + std::to_string(::getpid());
};

TEST_F(WorkspaceTest, OneThatLivesIsNotAbandoned) {
  Result<Workspace> mine = Workspace::create();
  ASSERT_TRUE(mine) << mine.error().message();
  std::ofstream(mine->path() + "/granary.yaml") << "x";
  EXPECT_THAT(remove_abandoned_workspaces(), IsEmpty());
  EXPECT_TRUE(fs::exists(mine->path()));
  EXPECT_TRUE(mine->remove());
  EXPECT_FALSE(fs::exists(mine->path()));
  EXPECT_TRUE(mine->remove());
}

TEST_F(WorkspaceTest, WhatAKilledOneLeftIsRemoved) {
  const std::string left = with_file("gran-st-abcdef");
  EXPECT_THAT(remove_abandoned_workspaces(), ElementsAre(left));
  EXPECT_TRUE(fs::is_empty(tmp_));
}

TEST_F(WorkspaceTest, OneThatIsKilledAtOnceIsAbandoned) {
  const pid_t child = ::fork();
  if (child == 0) {
    const Result<Workspace> its = Workspace::create();
    ::_exit(its ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  EXPECT_THAT(remove_abandoned_workspaces(), testing::SizeIs(1));
  EXPECT_TRUE(fs::is_empty(tmp_));
}

TEST_F(WorkspaceTest, OthersFoldersLinksAndFreshOnesStay) {
  const std::string other = with_file("other");
  fs::create_directory_symlink(other, tmp_ + "/gran-st-link");
  fs::create_directory(tmp_ + "/gran-st-fresh");
  std::ofstream(tmp_ + "/gran-st-file") << "x";
  const std::string foreign = with_file("gran-st-theirs");
  const bool root = ::chown(foreign.c_str(), 12345, 12345) == 0;
  EXPECT_THAT(remove_abandoned_workspaces(), testing::SizeIs(root ? 0 : 1));
  EXPECT_TRUE(fs::exists(other + "/granary.yaml"));
  EXPECT_TRUE(fs::exists(tmp_ + "/gran-st-fresh"));
}

}  // namespace
}  // namespace granary::ctl::selftest
