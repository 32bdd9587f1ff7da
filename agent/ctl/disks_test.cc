// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/disks.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace granary::ctl {
namespace {

TEST(CtlDisksTest, PathsAreMadeAbsoluteAndKeepTheirOrder) {
  v1::AcquireRequest request;
  ASSERT_TRUE(add_disks(request, {"/images/a.ext4", "b.img:ro", "/odd:name"}));
  ASSERT_EQ(request.disks_size(), 3);
  EXPECT_EQ(request.disks(0).path(), "/images/a.ext4");
  EXPECT_FALSE(request.disks(0).read_only());
  EXPECT_EQ(request.disks(1).path(), (std::filesystem::current_path() / "b.img").string());
  EXPECT_TRUE(request.disks(1).read_only());
  EXPECT_EQ(request.disks(2).path(), "/odd:name");
  EXPECT_FALSE(request.disks(2).read_only());
}

TEST(CtlDisksTest, AnEmptyPathIsRefused) {
  v1::AcquireRequest request;
  EXPECT_TRUE(add_disks(request, {":ro"}).error().is(Errc::kInvalidArgument));
  EXPECT_TRUE(add_disks(request, {""}).error().is(Errc::kInvalidArgument));
}

}  // namespace
}  // namespace granary::ctl
