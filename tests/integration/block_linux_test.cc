// SPDX-License-Identifier: Apache-2.0
// The block device under Linux's own driver, with files of this host.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/integration/linux_clones.h"
#include "vmpool/pool/sha256.h"

namespace granary::integration {
namespace {

using testing::HasSubstr;

LinuxClones* const clones =
    dynamic_cast<LinuxClones*>(testing::AddGlobalTestEnvironment(new LinuxClones));  // gtest owns it

int shell(const std::string& command) { return std::system(command.c_str()); }

std::string sum_of(const std::string& path) { return *pool::sha256_of_file(path); }

uint64_t allocated_bytes(const std::string& path) {
  struct stat st {};
  EXPECT_EQ(::stat(path.c_str(), &st), 0);
  return static_cast<uint64_t>(st.st_blocks) * 512;
}

class BlockLinuxTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_EQ(shell("command -v mkfs.ext4 e2fsck debugfs >/dev/null"), 0) << "e2fsprogs"; }
  void TearDown() override {
    if (!id_.empty()) release();
  }

  std::string path(const std::string& name) const { return clones->bench().path(name); }
  // A file of this many bytes of one value, all of it allocated.
  std::string filled(const std::string& name, size_t bytes, char value) const {
    std::ofstream(path(name), std::ios::binary) << std::string(bytes, value);
    return path(name);
  }
  // An ext4 image with a file "known" of 3 MiB, whose checksum it leaves in known_sum_.
  std::string ext4(const std::string& name) {
    const std::string folder = path(name + ".d");
    std::filesystem::create_directory(folder);
    std::string text;
    for (int i = 0; text.size() < 3 * kMiB; ++i) text += "line " + std::to_string(i * 7919) + "\n";
    std::ofstream(folder + "/known", std::ios::binary) << text;
    known_sum_ = pool::sha256_of(text);
    std::filesystem::remove(path(name));
    EXPECT_EQ(shell("mkfs.ext4 -q -d " + folder + " " + path(name) + " 48M"), 0);
    return path(name);
  }
  static pool::Disk disk(const std::string& file, bool read_only = false) {
    Result<Fd> fd = open_file(file, read_only ? O_RDONLY : O_RDWR);
    EXPECT_TRUE(fd) << fd.error().message();
    return {.file = std::move(*fd), .read_only = read_only};
  }
  void take(pool::Disk first, std::optional<pool::Disk> second = std::nullopt) {
    pool::Attachments attachments;
    attachments.disks.push_back(std::move(first));
    if (second) attachments.disks.push_back(std::move(*second));
    const Result<pool::CloneInfo> clone = clones->pool().acquire({}, in_time(), attachments);
    ASSERT_TRUE(clone) << clone.error().message();
    id_ = clone->id;
    socket_ = clone->socket_path;
  }
  CommandEnd run(const std::string& script, std::string_view input = "") const {
    return run_script(socket_, script, input);
  }
  void release() {
    const Result<bool> released = clones->pool().release(std::exchange(id_, ""));
    EXPECT_TRUE(released && *released);
  }

  std::string known_sum_;
  std::string id_;
  std::string socket_;
};

TEST_F(BlockLinuxTest, AnExt4ImageIsReadWrittenAndWhole) {
  const std::string image = ext4("rw.img");
  take(disk(image));
  const CommandEnd end = run(R"(set -e
cat /sys/block/vda/size /sys/block/vda/serial; echo
mount -t ext4 /dev/vda /mnt
sha256sum /mnt/known
dd if=/dev/urandom of=/mnt/written bs=65536 count=40 2>/dev/null
sync
sha256sum /mnt/written
umount /mnt
awk '{print "flushes", ($16 > 0 ? "some" : "none")}' /sys/block/vda/stat)");
  EXPECT_EQ(end.status, 0) << end.output;
  EXPECT_THAT(end.output, testing::StartsWith(std::to_string(48 * kMiB / 512) + "\ngranary-block0"));
  EXPECT_THAT(end.output, testing::AllOf(HasSubstr(known_sum_), HasSubstr("flushes some")));
  release();
  EXPECT_EQ(shell("e2fsck -fn " + image + " >/dev/null 2>&1"), 0);
  ASSERT_EQ(shell("debugfs -R 'dump /written " + path("written") + "' " + image + " 2>/dev/null"), 0);
  EXPECT_THAT(end.output, HasSubstr(sum_of(path("written")) + "  /mnt/written"));
}

TEST_F(BlockLinuxTest, ARunningGuestSeesAFileArrive) {
  const auto clone = clones->bare_clone();
  ASSERT_TRUE(clone) << clone.error().message();
  const std::string& socket = (*clone)->socket_path();
  EXPECT_EQ(run_script(socket, "cat /sys/block/vda/size; blkdiscard /dev/vda 2>/dev/null").output, "0\n");
  const pool::Disk late = disk(filled("late.img", 1 * kMiB, 'L'));
  ASSERT_TRUE((*clone)->vmm().attach_block(0, false, late.file.get()));
  const CommandEnd end = run_script(socket, until("[ $(cat /sys/block/vda/size) != 0 ]") +
                                                "cat /sys/block/vda/size; head -c 4 /dev/vda; dmesg | grep vda; "
                                                "cat /sys/block/vdb/size");
  EXPECT_THAT(end.output, testing::AllOf(testing::StartsWith("2048\nLLLL"), testing::EndsWith("\n0\n"),
                                         HasSubstr("vda: detected capacity change from 0 to 2048")));
  const Status second = (*clone)->vmm().attach_block(0, false, late.file.get());
  ASSERT_FALSE(second);
  EXPECT_TRUE(second.error().is_errno(EBUSY)) << second.error().message();
  EXPECT_EQ(run_script(socket, "true").status, 0) << "a refused attach does the guest no harm";
  EXPECT_THAT((*clone)->destroy(), testing::IsEmpty());
}

TEST_F(BlockLinuxTest, DiscardMakesTheFileSparse) {
  const std::string image = filled("discard.img", 16 * kMiB, 'D');
  const uint64_t before = allocated_bytes(image);
  take(disk(image));
  EXPECT_EQ(run("blkdiscard -o 1048576 -l 8388608 /dev/vda").status, 0);
  EXPECT_LE(allocated_bytes(image), before - 8 * kMiB + 64 * kKiB);
  const CommandEnd raw = run("dd if=/dev/vda bs=1M count=16 2>/dev/null | tr -d '\\0' | wc -c");
  EXPECT_EQ(raw.output, std::to_string(8 * kMiB) + "\n");
  release();

  const std::string fs = ext4("fstrim.img");
  take(disk(fs));
  const CommandEnd filling =
      run("set -e; mount /dev/vda /mnt; dd if=/dev/urandom of=/mnt/big bs=1M count=20 2>/dev/null; sync; df -k /mnt");
  EXPECT_EQ(filling.status, 0) << filling.output;
  const uint64_t full = allocated_bytes(fs);
  const CommandEnd trim = run("set -e; rm /mnt/big; sync; fstrim /mnt; umount /mnt");
  EXPECT_EQ(trim.status, 0) << trim.output;
  EXPECT_LE(allocated_bytes(fs), full - 19 * kMiB);
  release();
  EXPECT_EQ(shell("e2fsck -fn " + fs + " >/dev/null 2>&1"), 0);
}

TEST_F(BlockLinuxTest, ZeroesAreWrittenWithAndWithoutHoles) {
  const std::string image = filled("zero.img", 8 * kMiB, 'Z');
  const uint64_t before = allocated_bytes(image);
  take(disk(image));
  std::ifstream program(GRANARY_BLOCK_ZERO, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(program)), {});
  ASSERT_EQ(run("cat >/tmp/block-zero && chmod +x /tmp/block-zero", bytes).status, 0);
  const CommandEnd zero = run("/tmp/block-zero /dev/vda zero 1048576 1048576");
  EXPECT_EQ(zero.status, 0) << zero.output;
  EXPECT_GE(allocated_bytes(image), before - 64 * kKiB) << "without leave to unmap the blocks stay";
  const CommandEnd punch = run("/tmp/block-zero /dev/vda punch 4194304 2097152");
  EXPECT_EQ(punch.status, 0) << punch.output;
  EXPECT_LE(allocated_bytes(image), before - 2 * kMiB + 64 * kKiB);
  release();
  const Result<std::string> after = read_file(image, 16 * kMiB);
  const std::string z(kMiB, 'Z');
  const std::string none(kMiB, '\0');
  EXPECT_TRUE(after && *after == z + none + z + z + none + none + z + z);
}

TEST_F(BlockLinuxTest, TwoDisksAndAReadOnlyOne) {
  const std::string data = filled("first.img", 1 * kMiB, '1');
  const std::string image = ext4("ro.img");
  const std::string image_sum = sum_of(image);
  take(disk(data), disk(image, true));
  const CommandEnd read =
      run("head -c 3 /dev/vda; echo; mount -o ro /dev/vdb /mnt && sha256sum /mnt/known; umount /mnt");
  EXPECT_THAT(read.output, testing::AllOf(testing::StartsWith("111\n"), HasSubstr(known_sum_))) << read.output;
  const CommandEnd write = run("dd if=/dev/zero of=/dev/vdb bs=4096 count=1 conv=fsync");
  EXPECT_NE(write.status, 0);
  EXPECT_THAT(write.output, HasSubstr("Input/output error"));
  EXPECT_NE(run("blkdiscard /dev/vdb").status, 0);
  const CommandEnd mount = run("mount /dev/vdb /mnt && { echo x >/mnt/x; sync; umount /mnt; }; dmesg | tail -n 40");
  EXPECT_THAT(mount.output, HasSubstr("I/O error, dev vdb"));
  EXPECT_EQ(run("printf new | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null").status, 0) << "the other one is writable";
  release();
  EXPECT_EQ(sum_of(image), image_sum);
  EXPECT_THAT(*read_file(data, 2 * kMiB), testing::StartsWith("new111"));
}

}  // namespace
}  // namespace granary::integration
