// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/smaps.h"

#include <gtest/gtest.h>

namespace granary::bench {
namespace {

// A heap; guest memory of 1 MiB at 0x7f0000000000 with a template extent at its offset 0x10000 and anonymous memory
// around it; a shared memfd (the status page); a stack.
constexpr char kSmaps[] =
    "5600000000-5600021000 rw-p 00000000 00:00 0                  [heap]\n"
    "Size:                132 kB\nPss:                  40 kB\nPss_Dirty:            40 kB\nPrivate_Dirty:        40 "
    "kB\n"
    "7f0000000000-7f0000010000 rw-p 00000000 00:00 0 \n"
    "Pss:                   8 kB\nPrivate_Dirty:         8 kB\nAnonymous:             8 kB\n"
    "7f0000010000-7f0000020000 rw-p 00010000 00:01 1029           /memfd:granary-memory (deleted)\n"
    "Pss:                  10 kB\nPrivate_Dirty:         9 kB\nAnonymous:             4 kB\n"
    "7f0000020000-7f0000100000 rw-p 00000000 00:00 0 \n"
    "Pss:                   0 kB\nPrivate_Dirty:         0 kB\nAnonymous:             0 kB\n"
    "7f0000100000-7f0000111000 rw-s 00000000 00:01 1030           /memfd:granary-status (deleted)\n"
    "Pss:                   6 kB\nPrivate_Dirty:         0 kB\n"
    "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0              [stack]\n"
    "Pss:                  12 kB\nPrivate_Dirty:        12 kB\n"
    "VmFlags: rd wr mr\n";

TEST(Smaps, GuestMemoryAndTheRestAreToldApart) {
  const auto memory = parse_smaps(kSmaps, 1 << 20);
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->guest_pss_bytes, 18U * 1024);
  EXPECT_EQ(memory->guest_private_bytes, 12U * 1024);
  EXPECT_EQ(memory->vmm_pss_bytes, (40U + 6 + 12) * 1024);
}

TEST(Smaps, WithoutATemplateThereIsNoClone) {
  const std::string text = kSmaps;
  const auto memory = parse_smaps(text.substr(0, text.find("7f0000010000")), 1 << 20);
  ASSERT_FALSE(memory);
  EXPECT_TRUE(memory.error().is_errno(ENOENT));
  EXPECT_FALSE(parse_smaps("", 1 << 20));
}

}  // namespace
}  // namespace granary::bench
