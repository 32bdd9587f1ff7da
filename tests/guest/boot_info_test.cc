// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/boot_info.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

namespace {

static_assert(sizeof(tiny_start_info) == 56 && offsetof(tiny_start_info, command_line) == 24 &&
              offsetof(tiny_start_info, memory_map) == 40);
static_assert(sizeof(tiny_memory_map_entry) == 24);

TEST(TinyOptions, WordsAndValuesAreFound) {
  const char* line = "console=ttyS0 mode=count fill=8 at=restore flag";
  EXPECT_TRUE(tiny_option_is(line, "mode", "count"));
  EXPECT_TRUE(tiny_option(line, "flag", nullptr));
  EXPECT_TRUE(tiny_option_is(line, "flag", ""));
  EXPECT_EQ(tiny_option_number(line, "fill", 1), 8U);
}

TEST(TinyOptions, PartsOfWordsAreNot) {
  EXPECT_FALSE(tiny_option("xmode=count", "mode", nullptr));
  EXPECT_FALSE(tiny_option("modes=count", "mode", nullptr));
  EXPECT_FALSE(tiny_option_is("mode=counter", "mode", "count"));
  EXPECT_FALSE(tiny_option_is("mode=coun", "mode", "count"));
  EXPECT_FALSE(tiny_option(nullptr, "mode", nullptr));
  EXPECT_FALSE(tiny_option("", "mode", nullptr));
}

TEST(TinyOptions, NumbersAreWholeAndFit) {
  EXPECT_EQ(tiny_option_number("n=4294967295", "n", 7), 4294967295U);
  for (const char* line : {"n=4294967296", "n=", "n", "n=12x", "n=-1", "m=3"}) {
    EXPECT_EQ(tiny_option_number(line, "n", 7), 7U) << line;
  }
}

TEST(TinyOptions, ALineWithoutEndIsCutAt2048) {
  const std::vector<char> endless(2048, 'a');  // no NUL: reading on would leave the block
  EXPECT_FALSE(tiny_option(endless.data(), "mode", nullptr));
}

TEST(TinyMemoryMap, RamThatHoldsTheAddress) {
  const tiny_memory_map_entry map[] = {
      {0, 0x9'fc00, 1, 0}, {0x9'fc00, 0x6'0400, 2, 0}, {0x10'0000, 0x3f0'0000, 1, 0}, {1ULL << 32, 1ULL << 32, 1, 0}};
  EXPECT_EQ(tiny_memory_end(map, 4, 0x20'0000), 0x400'0000U);
  EXPECT_EQ(tiny_memory_end(map, 4, 0xa'0000), 0U);
  EXPECT_EQ(tiny_memory_end(map, 2, 0x20'0000), 0U);
}

TEST(TinyMemoryMap, EndIsBelowTheDeviceHole) {
  const tiny_memory_map_entry overflow{0x10'0000, ~uint64_t{0}, 1, 0};
  EXPECT_EQ(tiny_memory_end(&overflow, 1, 0x20'0000), 0xc000'0000U);
  const tiny_memory_map_entry large{0, 0xd000'0000, 1, 0};
  EXPECT_EQ(tiny_memory_end(&large, 1, 0x20'0000), 0xc000'0000U);
}

}  // namespace
