// SPDX-License-Identifier: Apache-2.0
#include "vmpool/snapshot/memory_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "vmpool/base/fd.h"
#include "vmpool/base/mapping.h"
#include "vmpool/base/units.h"

namespace granary::snapshot {
namespace {

std::span<std::byte> page(std::span<std::byte> memory, size_t n) { return memory.subspan(n * kPageSize, kPageSize); }

TEST(PopulatedExtents, FindsRunsByFirstAndLastByteOfAPage) {
  std::vector<std::byte> memory(8 * kPageSize);
  page(memory, 1).front() = std::byte{1};
  page(memory, 2).back() = std::byte{1};
  page(memory, 7)[kPageSize / 2] = std::byte{1};
  const std::vector<Extent> expected = {{kPageSize, 2 * kPageSize}, {7 * kPageSize, kPageSize}};
  EXPECT_EQ(populated_extents(memory), expected);
}

TEST(PopulatedExtents, NothingInZeroMemory) {
  const std::vector<std::byte> memory(4 * kPageSize);
  EXPECT_TRUE(populated_extents(memory).empty());
}

TEST(MemoryFile, SmallGapsAreClosed) {
  constexpr uint64_t kPage = 4096;
  EXPECT_TRUE(close_small_gaps({}).empty());
  const std::vector<Extent> extents = {
      {0, kPage}, {kPage + kSmallGapBytes, kPage}, {3 * kPage + 2 * kSmallGapBytes, kPage}};
  EXPECT_EQ(close_small_gaps(extents), (std::vector<Extent>{{0, 2 * kPage + kSmallGapBytes}, extents[2]}));
}

TEST(Coalesce, ClosesTheSmallestGaps) {
  const std::vector<Extent> extents = {{0, 10}, {20, 10}, {100, 10}, {115, 5}};
  EXPECT_EQ(coalesce(extents, 4), extents);
  EXPECT_EQ(coalesce(extents, 3), (std::vector<Extent>{{0, 10}, {20, 10}, {100, 20}}));
  EXPECT_EQ(coalesce(extents, 2), (std::vector<Extent>{{0, 30}, {100, 20}}));
  EXPECT_EQ(coalesce(extents, 1), (std::vector<Extent>{{0, 120}}));
}

TEST(Coalesce, RandomExtentsStayCoveredSortedAndFew) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<Extent> extents;
    uint64_t at = 0;
    const size_t count = random() % 300;
    for (size_t i = 0; i < count; ++i) {
      at += (1 + random() % 50) * kPageSize;
      const uint64_t bytes = (1 + random() % 9) * kPageSize;
      extents.push_back({at, bytes});
      at += bytes;
    }
    const std::vector<Extent> merged = coalesce(extents);
    ASSERT_LE(merged.size(), kMaxExtents);
    ASSERT_EQ(merged.size(), std::min(extents.size(), kMaxExtents));
    for (size_t i = 1; i < merged.size(); ++i) ASSERT_GT(merged[i].offset, merged[i - 1].offset + merged[i - 1].bytes);
    for (const Extent& e : extents) {
      ASSERT_TRUE(std::any_of(merged.begin(), merged.end(), [&](const Extent& m) {
        return m.offset <= e.offset && e.offset + e.bytes <= m.offset + m.bytes;
      }));
    }
  }
}

TEST(MemoryFile, HoldsMemoryAtItsOffsetsAndHolesElsewhere) {
  const Mapping memory = *Mapping::anonymous(64 * kPageSize);
  std::memset(page(memory.bytes(), 3).data(), 0xaa, kPageSize);
  std::memset(page(memory.bytes(), 60).data(), 0xbb, kPageSize);
  const Fd fd = *create_memfd("memory");
  const std::vector<Extent> extents = populated_extents(memory.bytes());
  ASSERT_TRUE(write_memory_file(fd.get(), memory.bytes(), extents));

  struct stat st {};
  ASSERT_EQ(::fstat(fd.get(), &st), 0);
  EXPECT_EQ(static_cast<uint64_t>(st.st_size), 64 * kPageSize);
  EXPECT_EQ(static_cast<uint64_t>(st.st_blocks) * 512, 2 * kPageSize);
  std::vector<std::byte> back(64 * kPageSize);
  ASSERT_TRUE(pread_all(fd.get(), back, 0));
  EXPECT_TRUE(std::equal(back.begin(), back.end(), memory.bytes().begin()));
}

TEST(MemoryFile, ZeroPagesInsideAnExtentAreAllocated) {
  const Mapping memory = *Mapping::anonymous(4 * kPageSize);
  const Fd fd = *create_memfd("memory");
  const Extent whole[] = {{0, 4 * kPageSize}};
  ASSERT_TRUE(write_memory_file(fd.get(), memory.bytes(), whole));
  struct stat st {};
  ASSERT_EQ(::fstat(fd.get(), &st), 0);
  EXPECT_EQ(static_cast<uint64_t>(st.st_blocks) * 512, 4 * kPageSize);
}

TEST(MemoryFile, RefusesAFileThatIsNotEmpty) {
  const Mapping memory = *Mapping::anonymous(kPageSize);
  const Fd fd = *create_memfd("memory", kPageSize);
  const Status status = write_memory_file(fd.get(), memory.bytes(), {});
  ASSERT_FALSE(status);
  EXPECT_TRUE(status.error().is(Errc::kInvalidArgument));
}

TEST(CheckSealedFile, WantsEverySealAndTheExactSize) {
  const Fd fd = *create_memfd("memory", 2 * kPageSize);
  EXPECT_TRUE(check_sealed_file(fd.get(), 2 * kPageSize, "memory file").error().is(Errc::kInvalidArgument));
  ASSERT_TRUE(seal_memfd(fd.get()));
  EXPECT_TRUE(check_sealed_file(fd.get(), 2 * kPageSize, "memory file"));
  EXPECT_TRUE(check_sealed_file(fd.get(), 3 * kPageSize, "memory file").error().is(Errc::kSnapshotTruncated));
  EXPECT_TRUE(check_sealed_file(fd.get(), kPageSize, "memory file").error().is(Errc::kSnapshotCorrupt));
  const Fd null = *open_file("/dev/null", 0);
  EXPECT_TRUE(check_seals(null.get(), "memory file").error().is(Errc::kInvalidArgument));
}

}  // namespace
}  // namespace granary::snapshot
