// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/process_use.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <ctime>
#include <string>

#include "vmpool/base/units.h"

namespace granary::pool {
namespace {

TEST(ProcessUseTest, TimeIsThatOfTheProcess) {
  const uint64_t before = cpu_ticks(::getpid());
  const auto a_second = static_cast<uint64_t>(::sysconf(_SC_CLK_TCK));
  // Until ten ticks of this process' own time have gone, by another clock.
  timespec now{};
  do {
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  } while (static_cast<uint64_t>(now.tv_sec) * a_second +
               static_cast<uint64_t>(now.tv_nsec) * a_second / 1'000'000'000 <
           before + 10);
  EXPECT_GE(cpu_ticks(::getpid()), before + 5);
}

TEST(ProcessUseTest, MemoryIsToldByField) {
  const std::string touched(16 * kMiB, 'x');
  EXPECT_GE(rollup_bytes(::getpid(), "Pss_Anon"), 16 * kMiB) << touched.size();
  EXPECT_GE(rollup_bytes(::getpid(), "Pss"), rollup_bytes(::getpid(), "Pss_Anon"));
  EXPECT_EQ(rollup_bytes(::getpid(), "Ps"), 0U);
}

TEST(ProcessUseTest, ChildrenAreListed) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  EXPECT_THAT(children_of(::getpid()), testing::Contains(child));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(cpu_ticks(child), 0U);
  EXPECT_EQ(rollup_bytes(child, "Pss"), 0U);
  EXPECT_THAT(children_of(child), testing::IsEmpty());
}

}  // namespace
}  // namespace granary::pool
