// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>

namespace granary {
namespace {

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

Fd make_pipe_end() {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  ::close(ends[1]);
  return Fd(ends[0]);
}

TEST(Fd, MoveAssignmentClosesTheOverwrittenDescriptor) {
  Fd first = make_pipe_end();
  Fd second = make_pipe_end();
  const int overwritten = first.get();
  const int kept = second.get();
  first = std::move(second);
  EXPECT_FALSE(is_open(overwritten));
  EXPECT_EQ(first.get(), kept);
  EXPECT_TRUE(is_open(kept));
}

TEST(Fd, SelfMoveIsHarmless) {
  Fd fd = make_pipe_end();
  const int number = fd.get();
  Fd& alias = fd;
  fd = std::move(alias);
  EXPECT_EQ(fd.get(), number);
  EXPECT_TRUE(is_open(number));
}

TEST(Fd, ReleaseGivesAwayAndTheOwnerClosesNothing) {
  int number = -1;
  {
    Fd fd = make_pipe_end();
    number = fd.release();
  }
  EXPECT_TRUE(is_open(number));
  ::close(number);
}

TEST(Fd, DuplicateIsCloseOnExec) {
  const Fd fd = make_pipe_end();
  const Result<Fd> copy = fd.duplicate();
  ASSERT_TRUE(copy);
  EXPECT_NE(copy->get(), fd.get());
  EXPECT_EQ(::fcntl(copy->get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST(OpenFile, ErrorNamesThePathAndKeepsErrno) {
  const Result<Fd> fd = open_file("/nonexistent/thing", O_RDONLY);
  ASSERT_FALSE(fd);
  EXPECT_TRUE(fd.error().is_errno(ENOENT));
  EXPECT_NE(fd.error().message().find("/nonexistent/thing"), std::string::npos);
}

TEST(Memfd, SealedFileRefusesWritesAndResizing) {
  const Result<Fd> fd = create_memfd("test", 8192);
  ASSERT_TRUE(fd);
  const std::array<std::byte, 4> bytes{};
  ASSERT_TRUE(pwrite_all(fd->get(), bytes, 0));
  ASSERT_TRUE(seal_memfd(fd->get()));
  EXPECT_FALSE(pwrite_all(fd->get(), bytes, 0));
  EXPECT_NE(::ftruncate(fd->get(), 0), 0);
  EXPECT_EQ(*file_size(fd->get()), 8192U);
}

TEST(PreadAll, PrematureEndIsAnError) {
  const Result<Fd> fd = create_memfd("test", 10);
  ASSERT_TRUE(fd);
  std::array<std::byte, 16> bytes;
  const Status status = pread_all(fd->get(), bytes, 0);
  ASSERT_FALSE(status);
  EXPECT_TRUE(status.error().is_errno(ENODATA));
}

TEST(ReadFile, RefusesMoreThanTheLimit) {
  const Result<std::string> text = read_file("/proc/self/maps", 16);
  ASSERT_FALSE(text);
  EXPECT_TRUE(text.error().is_errno(EFBIG));
}

Result<int> half(int n) {
  if (n % 2 != 0) return Error(Errc::kInvalidArgument, "odd number " + std::to_string(n));
  return n / 2;
}
Result<int> quarter(int n) { return GRANARY_TRY(half(GRANARY_TRY(half(n)))); }

TEST(Result, TryPassesTheValueOrTheError) {
  EXPECT_EQ(*quarter(12), 3);
  const Result<int> bad = quarter(6);
  ASSERT_FALSE(bad);
  EXPECT_TRUE(bad.error().is(Errc::kInvalidArgument));
  EXPECT_EQ(bad.error().message(), "odd number 3: invalid argument");
}

}  // namespace
}  // namespace granary
