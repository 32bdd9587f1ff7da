// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/build_id.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "vmpool/base/fd.h"

namespace granary {
namespace {

TEST(BuildIdTest, IsTheLinkersNote) {
  const auto id = read_build_id("/proc/self/exe");
  ASSERT_TRUE(id) << id.error().message();
  EXPECT_EQ(id->find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_GE(id->size(), 16U);
  EXPECT_EQ(*id, *read_build_id("/proc/self/exe"));
  EXPECT_NE(*id, *read_build_id("/bin/sh"));
}

TEST(BuildIdTest, WhatHasNoneIsRefusedByName) {
  EXPECT_TRUE(read_build_id("/nonexistent").error().is_errno(ENOENT));
  const auto text = read_build_id("/etc/passwd");
  ASSERT_FALSE(text);
  EXPECT_TRUE(text.error().is_errno(ENOEXEC));
  EXPECT_NE(text.error().message().find("/etc/passwd"), std::string::npos);
}

// Every cut of a real program, and a few bytes turned in its headers, gives an answer and no crash.
TEST(BuildIdTest, DamagedProgramsAreHarmless) {
  const std::string whole = *read_file("/bin/true", 8 << 20);
  const std::string path = testing::TempDir() + "build-id-" + std::to_string(::getpid());
  for (size_t cut = 0; cut < 768; cut += 7) {
    std::ofstream(path, std::ios::binary) << whole.substr(0, cut);
    EXPECT_FALSE(read_build_id(path)) << cut;
  }
  for (size_t at = 0; at < 1024; ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(~damaged[at]);
    std::ofstream(path, std::ios::binary) << damaged;
    (void)read_build_id(path);
  }
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace granary
