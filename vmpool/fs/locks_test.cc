// SPDX-License-Identifier: Apache-2.0
#include <sys/file.h>

#include "vmpool/fs/fuse_client.h"

namespace granary::fs {
namespace {

class LocksTest : public FuseTest {
 protected:
  LocksTest() : file(create(rw, "f")), handle(made.fh) {}
  static std::string lock_in(uint64_t fh, uint64_t owner, uint32_t type, uint32_t flags, uint64_t start, uint64_t end) {
    fuse_lk_in in{};
    in.fh = fh;
    in.owner = owner;
    in.lk = {start, end, type, 1};
    in.lk_flags = flags;
    return bytes_of(in);
  }
  int lock(uint64_t owner, uint32_t type, uint64_t start = 0, uint64_t end = 99) {
    return ask(FUSE_SETLK, file, lock_in(handle, owner, type, 0, start, end)).error;
  }
  uint64_t lock_and_wait(uint64_t owner, uint32_t type) {
    const uint64_t unique = tell(FUSE_SETLKW, file, lock_in(handle, owner, type, 0, 0, 99));
    settle();
    return unique;
  }
  [[nodiscard]] bool is_answered(uint64_t unique) {
    settle();
    return std::any_of(answers.begin(), answers.end(), [&](const Answer& a) { return a.unique == unique; });
  }
  uint64_t file;
  uint64_t handle;
};

TEST_F(LocksTest, OwnersExcludeEachOther) {
  EXPECT_EQ(lock(1, F_WRLCK), 0);
  EXPECT_EQ(lock(2, F_WRLCK), EAGAIN);
  EXPECT_EQ(lock(2, F_WRLCK, 100, 199), 0) << "another range";
  EXPECT_EQ(lock(1, F_RDLCK), 0) << "its own is changed";
  EXPECT_EQ(lock(2, F_RDLCK), 0);
  const auto found = ask(FUSE_GETLK, file, lock_in(handle, 2, F_WRLCK, 0, 0, 99)).as<fuse_lk_out>();
  EXPECT_EQ(found.lk.type, static_cast<uint32_t>(F_RDLCK));
  EXPECT_EQ(found.lk.pid, 0U);
}

TEST_F(LocksTest, ProcessesOfTheHostAreExcludedToo) {
  EXPECT_EQ(lock(1, F_WRLCK), 0);
  const Fd here = *open_file((top / "rw" / "f").string(), O_RDWR);
  struct flock mine {};
  mine.l_type = F_WRLCK;
  EXPECT_NE(::fcntl(here.get(), F_OFD_SETLK, &mine), 0);
  EXPECT_EQ(lock(1, F_UNLCK), 0);
  EXPECT_EQ(::fcntl(here.get(), F_OFD_SETLK, &mine), 0);
  const uint64_t waits = lock_and_wait(1, F_WRLCK);
  EXPECT_FALSE(is_answered(waits));
  mine.l_type = F_UNLCK;
  ASSERT_EQ(::fcntl(here.get(), F_OFD_SETLK, &mine), 0);
  EXPECT_EQ(await(waits).error, 0) << "noticed without a word from the guest";
}

TEST_F(LocksTest, WhoWaitsStopsNobody) {
  ASSERT_EQ(lock(1, F_WRLCK), 0);
  const uint64_t second = lock_and_wait(2, F_WRLCK);
  const uint64_t third = lock_and_wait(3, F_WRLCK);
  EXPECT_EQ(write(handle, "meanwhile"), 9U);
  EXPECT_FALSE(is_answered(second));
  EXPECT_EQ(lock(1, F_UNLCK), 0);
  EXPECT_EQ(await(second).error, 0);
  EXPECT_FALSE(is_answered(third));
  fuse_flush_in flush{};
  flush.fh = handle;
  flush.lock_owner = 2;
  EXPECT_EQ(ask(FUSE_FLUSH, file, bytes_of(flush)).error, 0) << "the second closes the file";
  EXPECT_EQ(await(third).error, 0);
}

TEST_F(LocksTest, WhoWaitsCanBeInterrupted) {
  ASSERT_EQ(lock(1, F_WRLCK), 0);
  const uint64_t waits = lock_and_wait(2, F_WRLCK);
  tell(FUSE_INTERRUPT, file, bytes_of(fuse_interrupt_in{waits}));
  EXPECT_EQ(await(waits).error, EINTR);
  EXPECT_EQ(lock(1, F_UNLCK), 0);
  EXPECT_EQ(lock(3, F_WRLCK), 0) << "who was interrupted has no lock";
}

TEST_F(LocksTest, WaitingIsBounded) {
  ASSERT_EQ(lock(1, F_WRLCK), 0);
  std::vector<uint64_t> waiting;
  for (size_t i = 0; i < LockTable::kMaxWaiting; ++i) waiting.push_back(lock_and_wait(2, F_WRLCK));
  EXPECT_EQ(await(lock_and_wait(2, F_WRLCK)).error, ENOLCK);
  ASSERT_TRUE(server->remove_export("rw"));
  for (const uint64_t each : waiting) EXPECT_EQ(await(each).error, ESTALE) << "there is nothing to wait for";
}

TEST_F(LocksTest, OwnersAreBounded) {
  uint64_t owner = 1;
  while (owner < 1000 && lock(owner, F_RDLCK) == 0) ++owner;
  EXPECT_EQ(owner - 1, kLimits.handles / 2);
  EXPECT_EQ(lock(owner, F_RDLCK), ENOLCK);
  forget(file, 10);
  file = look("f", rw);
  EXPECT_EQ(lock(owner, F_RDLCK), 0) << "locks go with the inode";
}

TEST_F(LocksTest, WholeFileLocks) {
  const uint64_t other = open(file, O_RDWR);
  const auto flock = [&](uint64_t fh, uint32_t type, uint32_t opcode) {
    return tell(opcode, file, lock_in(fh, fh, type, FUSE_LK_FLOCK, 0, 0));
  };
  EXPECT_EQ(await(flock(handle, F_WRLCK, FUSE_SETLK)).error, 0);
  EXPECT_EQ(await(flock(other, F_WRLCK, FUSE_SETLK)).error, EAGAIN);
  const uint64_t waits = flock(other, F_WRLCK, FUSE_SETLKW);
  EXPECT_FALSE(is_answered(waits));
  release(file, handle);
  EXPECT_EQ(await(waits).error, 0) << "the lock went with its file";
  EXPECT_EQ(await(flock(4711, F_WRLCK, FUSE_SETLK)).error, EBADF);
}

TEST_F(LocksTest, AReadOnlyExportGivesSharedLocksOnly) {
  put(top / "ro" / "g", "");
  file = look("g", ro);
  handle = open(file, O_RDONLY);
  EXPECT_EQ(lock(1, F_RDLCK), 0);
  EXPECT_EQ(lock(2, F_WRLCK), EBADF);
}

}  // namespace
}  // namespace granary::fs
