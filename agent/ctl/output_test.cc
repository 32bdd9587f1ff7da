// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/output.h"

#include <gtest/gtest.h>

#include <sstream>

#include "granary/v1/pool.pb.h"

namespace granary::ctl {
namespace {

TEST(TableTest, AlignsColumnsByCharactersNotBytes) {
  Table table({"NAME", "TIME", "LAST"});
  table.add({"a", "312 µs", "x"});
  table.add({"longer", "1 s", "y"});
  table.add({"b", "", ""});
  std::ostringstream out;
  table.print(out);
  EXPECT_EQ(out.str(),
            "NAME    TIME    LAST\n"
            "a       312 µs  x\n"
            "longer  1 s     y\n"
            "b\n");
}

TEST(TableTest, GuestsCannotDriveTheTerminal) {
  Table table({"TEXT"});
  table.add({"a\033[2J\nb"});
  std::ostringstream out;
  table.print(out);
  EXPECT_EQ(out.str(), "TEXT\na?[2J?b\n");
}

TEST(HumanTest, Sizes) {
  EXPECT_EQ(human_size(0), "0 B");
  EXPECT_EQ(human_size(1023), "1023 B");
  EXPECT_EQ(human_size(1024), "1.00 KiB");
  EXPECT_EQ(human_size(13'107'200), "12.5 MiB");
  EXPECT_EQ(human_size(256ull << 20), "256 MiB");
  EXPECT_EQ(human_size(5ull << 40), "5.00 TiB");
}

TEST(HumanTest, Durations) {
  EXPECT_EQ(human_duration(0), "0 ns");
  EXPECT_EQ(human_duration(-5), "0 ns");
  EXPECT_EQ(human_duration(312'000), "312 µs");
  EXPECT_EQ(human_duration(1'250'000'000), "1.25 s");
}

TEST(JsonTest, KeepsTheNamesOfTheProtoAndEmptyFields) {
  v1::ReleaseResponse response;
  response.set_reclaim_ns(7);
  EXPECT_EQ(to_json(response), R"({"was_present":false,"reclaim_ns":"7"})");
}

TEST(ShortTest, KeysAndEmptyTexts) {
  EXPECT_EQ(short_key(""), "-");
  EXPECT_EQ(short_key("0123456789abcdef"), "0123456789ab");
  EXPECT_EQ(or_dash("x"), "x");
}

}  // namespace
}  // namespace granary::ctl
