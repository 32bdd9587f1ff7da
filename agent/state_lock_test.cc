// SPDX-License-Identifier: Apache-2.0
#include "agent/state_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

namespace granary::agent {
namespace {

TEST(StateLockTest, TheSecondHolderIsToldTheFirstOnesPid) {
  const std::string directory = testing::TempDir() + "/granary-lock-" + std::to_string(getpid()) + "/a/b";
  {
    const auto first = lock_state_directory(directory);
    ASSERT_TRUE(first) << first.error().message();
    const auto second = lock_state_directory(directory);
    ASSERT_FALSE(second);
    EXPECT_TRUE(second.error().is(Errc::kAlreadyRunning));
    EXPECT_THAT(second.error().message(),
                testing::AllOf(testing::HasSubstr("pid " + std::to_string(getpid())), testing::HasSubstr(directory)));
  }
  EXPECT_TRUE(lock_state_directory(directory));
  std::filesystem::remove_all(std::filesystem::path(directory).parent_path().parent_path());
}

TEST(StateLockTest, AFileInTheWayIsNamed) {
  const auto lock = lock_state_directory("/dev/null/state");
  ASSERT_FALSE(lock);
  EXPECT_THAT(lock.error().message(), testing::HasSubstr("/dev/null/state"));
}

}  // namespace
}  // namespace granary::agent
