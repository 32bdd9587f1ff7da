// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/content_stamp.h"

#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/statfs.h>

#include "vmpool/fs/fuse_client.h"

namespace granary::fs {
namespace {

// On the disk that holds the tests' temporary files.
class ContentStampTest : public FuseTest {
 protected:
  void SetUp() override {
    FuseTest::SetUp();
    struct statfs system {};
    ASSERT_EQ(::statfs(top.c_str(), &system), 0);
    if (system.f_type == TMPFS_MAGIC) GTEST_SKIP() << "/var/tmp is on a tmpfs, which never tells";
    put(path, "one");
    file = *open_file(path.string(), O_RDWR);
  }
  // As at an open that comes so many seconds after now.
  bool cached(time_t later) {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += later;
    return is_as_cached(node, file, now);
  }
  // Until the file system's clock has moved on.
  void write_later() {
    struct stat before {};
    struct stat after {};
    ASSERT_EQ(::fstat(file.get(), &before), 0);
    do {
      ASSERT_EQ(::pwrite(file.get(), "two", 3, 0), 3);
      ASSERT_EQ(::fstat(file.get(), &after), 0);
    } while (after.st_ctim.tv_sec == before.st_ctim.tv_sec && after.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
  }

  const stdfs::path path = top / "rw" / "f";
  Fd file;
  Node node;
};

TEST_F(ContentStampTest, WhatHasNotChangedStaysCached) {
  EXPECT_FALSE(cached(100)) << "nothing is cached before the first open";
  EXPECT_TRUE(cached(101));
  EXPECT_TRUE(cached(102));
}

TEST_F(ContentStampTest, WhatHasChangedDoesNot) {
  EXPECT_FALSE(cached(100));
  write_later();
  EXPECT_FALSE(cached(200));
  EXPECT_TRUE(cached(201));
  ASSERT_EQ(::fchmod(file.get(), 0600), 0);
  write_later();
  EXPECT_FALSE(cached(300));
}

TEST_F(ContentStampTest, AYoungTimeIsNotBelieved) {
  EXPECT_FALSE(cached(0));
  EXPECT_FALSE(cached(30)) << "it could be written again without that the time moves";
  EXPECT_FALSE(cached(100));
  EXPECT_TRUE(cached(101));
}

TEST_F(ContentStampTest, FileSystemsWhoseTimesTellNothingAreNeverBelieved) {
  for (const char* name : {"/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled", "/dev/shm"}) {
    Result<Fd> opened = open_file(name, O_RDONLY);
    if (!opened) continue;
    file = std::move(*opened);
    EXPECT_FALSE(cached(100'000)) << name;
    EXPECT_FALSE(cached(100'001)) << name;
  }
}

TEST_F(ContentStampTest, AnOpenSaysIt) {
  export_path("bin", "/usr/bin", true);
  const uint64_t program = look("env", look("bin"));
  if (program == 0) GTEST_SKIP() << "/usr/bin/env is not there";
  const auto flags = [&] {
    return ask(FUSE_OPEN, program, bytes_of(fuse_open_in{.flags = O_RDONLY, .open_flags = 0}))
        .as<fuse_open_out>()
        .open_flags;
  };
  EXPECT_EQ(flags() & FOPEN_KEEP_CACHE, 0U);
  EXPECT_EQ(flags() & FOPEN_KEEP_CACHE, uint32_t{FOPEN_KEEP_CACHE});
  const uint64_t young = look("f", rw);
  for (int i = 0; i < 2; ++i) {
    const auto opened = ask(FUSE_OPEN, young, bytes_of(fuse_open_in{.flags = O_RDONLY, .open_flags = 0}));
    EXPECT_EQ(opened.as<fuse_open_out>().open_flags & FOPEN_KEEP_CACHE, 0U);
  }
}

}  // namespace
}  // namespace granary::fs
