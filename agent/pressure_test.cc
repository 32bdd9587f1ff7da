// SPDX-License-Identifier: Apache-2.0
#include "agent/pressure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "vmpool/base/units.h"

namespace granary::agent {
namespace {

namespace fs = std::filesystem;

const char* const kMeminfo =
    "MemTotal:        8000 kB\nMemFree:         1000 kB\nMemAvailable:    3000 kB\nActive(file):     900 kB\n"
    "Inactive(file):   500 kB\n";

class MemoryFilesTest : public testing::Test {
 protected:
  MemoryFilesTest() {
    std::string name = (fs::temp_directory_path() / "granary-memory-XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    files_ = {.meminfo = (folder_ / "meminfo").string(),
              .stalls = {(folder_ / "node").string(), (folder_ / "pool").string()}};
    write("meminfo", kMeminfo);
  }
  ~MemoryFilesTest() override { fs::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }

  fs::path folder_;
  MemoryFiles files_;
};

TEST_F(MemoryFilesTest, ReadsWhatTheKubeletComputes) {
  const auto reading = read_memory(files_);
  ASSERT_TRUE(reading) << reading.error().message();
  EXPECT_EQ(reading->kubelet_available_bytes, 1500 * kKiB);
  EXPECT_EQ(reading->available_bytes, 3000 * kKiB);
  EXPECT_FALSE(reading->stalled_percent);
}

TEST_F(MemoryFilesTest, TheWorstStallCounts) {
  write("node", "some avg10=1.25 avg60=90.00 avg300=0.00 total=1\nfull avg10=70.00 avg60=0.00 avg300=0.00 total=0\n");
  EXPECT_EQ(read_memory(files_)->stalled_percent, 1.25);
  write("pool", "some avg10=12.50 avg60=0.00 avg300=0.00 total=1\n");
  EXPECT_EQ(read_memory(files_)->stalled_percent, 12.5);
  write("node", "");
  write("pool", "some avg10=lots");
  EXPECT_FALSE(read_memory(files_)->stalled_percent);
}

TEST_F(MemoryFilesTest, ADamagedMeminfoIsAnError) {
  write("meminfo", "MemFree: 1 kB\nMemAvailable: lots\n");
  EXPECT_THAT(read_memory(files_).error().message(), testing::HasSubstr("no number for Inactive(file)"));
  write("meminfo", "");
  EXPECT_TRUE(read_memory(files_).error().is(Errc::kProtocolMalformed));
  fs::remove(folder_ / "meminfo");
  EXPECT_TRUE(read_memory(files_).error().is_errno(ENOENT));
}

TEST_F(MemoryFilesTest, ThisHostsFilesCanBeRead) {
  const auto reading = read_memory({});
  ASSERT_TRUE(reading) << reading.error().message();
  EXPECT_GT(reading->available_bytes, 0u);
}

constexpr uint64_t kMin = 100;
MemoryReading reading(uint64_t kubelet, uint64_t available, std::optional<double> stalled) {
  return {.kubelet_available_bytes = kubelet, .available_bytes = available, .stalled_percent = stalled};
}
const MemoryReading kFine = reading(1000, 1000, 0);

TEST(PressureTest, LevelsComeAtOnce) {
  Pressure pressure;
  EXPECT_EQ(pressure.look(kFine, kMin), PressureLevel::kNone);
  EXPECT_EQ(pressure.look(reading(1000, 1000, 9.9), kMin), PressureLevel::kNone);
  EXPECT_EQ(pressure.look(reading(1000, 1000, 10), kMin), PressureLevel::kHigh);
  EXPECT_EQ(pressure.look(reading(99, 1000, 0), kMin), PressureLevel::kCritical);
  EXPECT_EQ(pressure.look(reading(1000, 1000, 50), kMin), PressureLevel::kHigh);
}

TEST(PressureTest, WithoutPsiMemAvailableCounts) {
  Pressure pressure;
  EXPECT_EQ(pressure.look(reading(1000, 200, {}), kMin), PressureLevel::kNone);
  EXPECT_EQ(pressure.look(reading(1000, 199, {}), kMin), PressureLevel::kHigh);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(pressure.look(reading(1000, 399, {}), kMin), PressureLevel::kHold);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(pressure.look(reading(1000, 400, {}), kMin), PressureLevel::kHold);
  EXPECT_EQ(pressure.look(reading(1000, 400, {}), kMin), PressureLevel::kNone);
}

TEST(PressureTest, OnlyFiveCalmLooksInARowEndIt) {
  Pressure pressure;
  pressure.look(reading(50, 1000, 0), kMin);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(pressure.look(kFine, kMin), PressureLevel::kHold);
  EXPECT_EQ(pressure.look(reading(124, 1000, 0), kMin), PressureLevel::kHold);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(pressure.look(kFine, kMin), PressureLevel::kHold);
  EXPECT_EQ(pressure.look(reading(1000, 1000, 5), kMin), PressureLevel::kHold);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(pressure.look(reading(125, 1000, 4.9), kMin), PressureLevel::kHold);
  EXPECT_EQ(pressure.look(kFine, kMin), PressureLevel::kNone);
}

TEST(PressureTest, ZeroSwitchesEvictionAndMemAvailableOff) {
  Pressure pressure;
  EXPECT_EQ(pressure.look(reading(0, 0, {}), 0), PressureLevel::kNone);
}

TEST(PressureTest, TellsWhatItSaw) {
  EXPECT_EQ(to_text(reading(812 * kMiB, 900 * kMiB, 12.34)),
            "memory.available 812 MiB, MemAvailable 900 MiB, 12.3 % stalled");
  EXPECT_EQ(to_text(reading(0, 0, {})), "memory.available 0 MiB, MemAvailable 0 MiB, no PSI");
}

}  // namespace
}  // namespace granary::agent
