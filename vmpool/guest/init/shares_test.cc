// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/shares.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace granary::guest {
namespace {

// With a guest and its file server: tests/integration/fs_linux_test.cc. Here: a machine that has no such device, in a
// mount namespace of its own in case it has one after all.
TEST(Shares, AMachineWithoutTheDeviceSaysSoAndMountsNothing) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: it mounts";
  std::string name = (std::filesystem::temp_directory_path() / "granary-shares-XXXXXX").string();
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  const std::string folder = name + "/a/b";
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) ::_exit(2);
    const Status mounted = mount_shares(folder);
    const bool named = !mounted && mounted.error().message().find(folder) != std::string::npos;
    ::_exit(named && std::filesystem::is_empty(folder) ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  std::filesystem::remove_all(name);
}

}  // namespace
}  // namespace granary::guest
