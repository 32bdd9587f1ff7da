// SPDX-License-Identifier: Apache-2.0
#include "agent/disks.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace granary::agent {
namespace {

using testing::HasSubstr;

class DisksTest : public testing::Test {
 protected:
  DisksTest() {
    std::string name = testing::TempDir() + "granary-disks-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    folder_ = name;
  }
  ~DisksTest() override { std::filesystem::remove_all(folder_); }

  std::string file(const std::string& name, off_t bytes) {
    const std::string path = folder_ + "/" + name;
    const Result<Fd> fd = open_file(path, O_CREAT | O_RDWR);
    EXPECT_TRUE(fd && ::ftruncate(fd->get(), bytes) == 0);
    return path;
  }
  static Result<std::vector<pool::Disk>> open(const std::string& path, bool read_only = false) {
    return open_disks({{.path = path, .read_only = read_only}}, 8);
  }
  static void expect_invalid(const std::string& path, const std::string& why) {
    const auto refused = open(path);
    ASSERT_FALSE(refused) << path;
    EXPECT_TRUE(refused.error().is(Errc::kInvalidArgument)) << refused.error().message();
    EXPECT_THAT(refused.error().message(), testing::AllOf(HasSubstr("disk " + path.substr(0, 100)), HasSubstr(why)));
  }
  std::string folder_;
};

TEST_F(DisksTest, OpensForWhatTheyAreTo) {
  const auto disks = open_disks({{.path = file("a", 512)}, {.path = file("b", 4096), .read_only = true}}, 2);
  ASSERT_TRUE(disks) << disks.error().message();
  const auto flags = [&](size_t i) { return ::fcntl((*disks)[i].file.get(), F_GETFL) & O_ACCMODE; };
  EXPECT_EQ(flags(0), O_RDWR);
  EXPECT_EQ(flags(1), O_RDONLY);
  EXPECT_FALSE((*disks)[0].read_only);
  EXPECT_TRUE((*disks)[1].read_only);
  for (const pool::Disk& disk : *disks) EXPECT_EQ(::fcntl(disk.file.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_TRUE(open_disks({}, 0)->empty());
}

TEST_F(DisksTest, MoreThanTheSlotsAreRefused) {
  const auto refused = open_disks({{.path = file("a", 512)}, {.path = file("b", 512)}}, 1);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().is(Errc::kInvalidArgument));
  EXPECT_THAT(refused.error().message(), HasSubstr("2 disks, but the pool's clones have 1 slots"));
}

TEST_F(DisksTest, WhatIsNoDiskIsRefused) {
  expect_invalid(folder_, "a directory");
  expect_invalid("/dev/null", "neither a regular file nor a block device");
  ASSERT_EQ(::mkfifo((folder_ + "/fifo").c_str(), 0600), 0);
  expect_invalid(folder_ + "/fifo", "neither a regular file nor a block device");  // and does not wait for a writer
  expect_invalid(file("odd", 513), "513 bytes; make it a multiple of 512");
  expect_invalid(file("empty", 0), "0 bytes");
  expect_invalid("relative/path", "give an absolute path");
  expect_invalid("", "give an absolute path");
  expect_invalid("/" + std::string(5000, 'x'), "path of 5001 bytes");
}

TEST_F(DisksTest, WhatCannotBeOpenedKeepsItsErrno) {
  const auto missing = open(folder_ + "/missing");
  ASSERT_FALSE(missing);
  EXPECT_TRUE(missing.error().is_errno(ENOENT));
  EXPECT_THAT(missing.error().message(), HasSubstr("/missing"));
  const std::string path = file("mine", 512);
  ASSERT_EQ(::chmod(path.c_str(), 0444), 0);
  ASSERT_EQ(::chmod(folder_.c_str(), 0755), 0);
  const bool root = ::geteuid() == 0;  // who may open everything
  ASSERT_TRUE(!root || ::seteuid(65534) == 0);
  const auto refused = open(path);
  const auto readable = open(path, true);
  ASSERT_TRUE(!root || ::seteuid(0) == 0);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().is_errno(EACCES));
  EXPECT_THAT(refused.error().message(), HasSubstr("append :ro"));
  EXPECT_TRUE(readable) << readable.error().message();
}

TEST_F(DisksTest, OneWriterOrManyReaders) {
  const std::string path = file("shared", 512);
  {
    const auto writer = open(path);
    ASSERT_TRUE(writer);
    for (const bool read_only : {true, false}) {
      const auto second = open(path, read_only);
      ASSERT_FALSE(second);
      EXPECT_TRUE(second.error().is_errno(EBUSY));
      EXPECT_THAT(second.error().message(), HasSubstr(path));
    }
  }
  // What holds the lock is the open file, so whoever got a duplicate of the descriptor does.
  Fd passed_on;
  {
    const auto reader = open(path, true);
    ASSERT_TRUE(reader);
    EXPECT_TRUE(open(path, true));
    passed_on = std::move(*reader->front().file.duplicate());
  }
  EXPECT_FALSE(open(path));
  passed_on.reset();
  EXPECT_TRUE(open(path));
  const auto twice = open_disks({{.path = file("x", 512)}, {.path = folder_ + "/x"}}, 8);
  ASSERT_FALSE(twice);
  EXPECT_TRUE(twice.error().is_errno(EBUSY));
  EXPECT_TRUE(open(folder_ + "/x")) << "a request that failed keeps no lock";
}

TEST_F(DisksTest, TextsAreBoundedAndPlain) {
  EXPECT_EQ(to_text({}), "no disks");
  EXPECT_EQ(to_text({{.path = "/a\n"}, {.path = "/b", .read_only = true}}), "disks /a?, /b:ro");
  EXPECT_LT(to_text(std::vector<DiskWish>(1000, {.path = std::string(1000, 'x')})).size(), 1000U);
}

}  // namespace
}  // namespace granary::agent
