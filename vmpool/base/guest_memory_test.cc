// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/guest_memory.h"

#include <gtest/gtest.h>

#include "vmpool/base/fd.h"
#include "vmpool/base/status_page.h"

namespace granary {
namespace {

TEST(GuestMemory, RefusesSizesOutOfRange) {
  for (const uint64_t size : {uint64_t{0}, kMinGuestMemory - kPageSize, kMaxGuestMemory + kPageSize, kMinGuestMemory + 1}) {
    const Result<GuestMemory> memory = GuestMemory::create(size);
    ASSERT_FALSE(memory) << size;
    EXPECT_TRUE(memory.error().is(Errc::kMemoryOutOfRange)) << size;
  }
}

TEST(GuestMemory, SmallGuestsHaveOneRegion) {
  const Result<GuestMemory> memory = GuestMemory::create(64 * kMiB);
  ASSERT_TRUE(memory);
  ASSERT_EQ(memory->regions().size(), 1U);
  EXPECT_EQ(memory->low_end().value, 64 * kMiB);
}

TEST(GuestMemory, TheHoleStartsAt3GiBAndMemoryGoesOnAt4GiB) {
  const Result<GuestMemory> memory = GuestMemory::create(5 * kGiB);
  ASSERT_TRUE(memory);
  ASSERT_EQ(memory->regions().size(), 2U);
  EXPECT_EQ(memory->regions()[1].start.value, 4 * kGiB);
  EXPECT_EQ(memory->regions()[1].size_bytes, 2 * kGiB);
  ASSERT_TRUE(memory->write(Gpa{4 * kGiB}, uint32_t{0xabcd}));
  uint32_t behind = 0;
  std::memcpy(&behind, memory->mapping().data() + 3 * kGiB, sizeof(behind));
  EXPECT_EQ(behind, 0xabcdU);
  EXPECT_FALSE(memory->range(Gpa{3 * kGiB}, 1));
  EXPECT_FALSE(memory->range(Gpa{3 * kGiB - 1}, 2));
  EXPECT_TRUE(memory->range(Gpa{6 * kGiB - 1}, 1));
  EXPECT_FALSE(memory->range(Gpa{6 * kGiB - 1}, 2));
}

TEST(GuestMemory, HostileRangesDoNotWrapAround) {
  const Result<GuestMemory> memory = GuestMemory::create(1 * kMiB);
  ASSERT_TRUE(memory);
  EXPECT_FALSE(memory->range(Gpa{0}, UINT64_MAX));
  EXPECT_FALSE(memory->range(Gpa{UINT64_MAX}, 2));
  EXPECT_FALSE(memory->range(Gpa{kMiB - 8}, UINT64_MAX - 4));
  EXPECT_TRUE(memory->range(Gpa{kMiB}, 0));
  EXPECT_FALSE(memory->read<uint64_t>(Gpa{kMiB - 4}));
}

TEST(Mapping, OverlayIsPrivateAndChecked) {
  Result<Mapping> mapping = Mapping::anonymous(4 * kPageSize);
  const Result<Fd> file = create_memfd("overlay", 2 * kPageSize);
  ASSERT_TRUE(mapping && file);
  const std::array<std::byte, 1> mark{std::byte{7}};
  ASSERT_TRUE(pwrite_all(file->get(), mark, kPageSize));
  ASSERT_TRUE(seal_memfd(file->get()));
  ASSERT_TRUE(mapping->overlay_private(kPageSize, kPageSize, file->get(), kPageSize));
  EXPECT_EQ(mapping->data()[kPageSize], std::byte{7});
  mapping->data()[kPageSize] = std::byte{9};
  std::array<std::byte, 1> in_file;
  ASSERT_TRUE(pread_all(file->get(), in_file, kPageSize));
  EXPECT_EQ(in_file[0], std::byte{7});
  EXPECT_FALSE(mapping->overlay_private(1, kPageSize, file->get(), 0));
  EXPECT_FALSE(mapping->overlay_private(3 * kPageSize, 2 * kPageSize, file->get(), 0));
  EXPECT_FALSE(mapping->overlay_private(UINT64_MAX - kPageSize + 1, 2 * kPageSize, file->get(), 0));
}

TEST(StatusFile, ConsoleKeepsTheNewestBytes) {
  const Result<Fd> fd = StatusFile::create();
  ASSERT_TRUE(fd);
  const Result<StatusFile> file = StatusFile::map(fd->get(), true);
  ASSERT_TRUE(file);
  const std::string filler(StatusPage::kConsoleBytes, 'x');
  file->write_console(std::as_bytes(std::span(filler)));
  file->write_console(std::as_bytes(std::span("end", 3)));
  EXPECT_EQ(file->console_tail(4), "xend");
  EXPECT_EQ(file->console_tail().size(), StatusPage::kConsoleBytes);
}

TEST(StatusFile, TheFirstEndWinsAndHostileValuesAreLost) {
  const Result<Fd> fd = StatusFile::create();
  const Result<StatusFile> file = StatusFile::map(fd->get(), true);
  ASSERT_TRUE(file);
  file->set_end(EndState::kPanic, 1, "panic");
  file->set_end(EndState::kTerminated, 0, "later");
  EXPECT_EQ(file->end_state(), EndState::kPanic);
  file->page().end_state = 4711;
  file->page().console_written = UINT64_MAX;
  EXPECT_EQ(file->end_state(), EndState::kLost);
  EXPECT_EQ(file->console_tail().size(), StatusPage::kConsoleBytes);
}

TEST(StatusFile, AShortFileIsRefused) {
  const Result<Fd> fd = create_memfd("short", 100);
  ASSERT_TRUE(fd);
  EXPECT_FALSE(StatusFile::map(fd->get(), false));
}

}  // namespace
}  // namespace granary
