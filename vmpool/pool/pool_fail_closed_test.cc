// SPDX-License-Identifier: Apache-2.0
// Whatever step of a hand-over fails, its clone is destroyed and another is used. granary-init's own steps:
// identity_test.
#include <gtest/gtest.h>

#include "vmpool/pool/deadline.h"
#include "vmpool/pool/pool.h"
#include "vmpool/pool/test_bench.h"

namespace granary::pool {
namespace {

struct Step {
  const char* behaviour;  // of the fake VMM
  const char* said;       // in the pool's words
};

class PoolFailClosedTest : public testing::TestWithParam<Step> {
 protected:
  TestBench bench;
};

TEST_P(PoolFailClosedTest, TheCloneIsDestroyedAndAnotherIsUsed) {
  PoolSettings settings = bench.settings();
  settings.size = 1;
  settings.identity_timeout = std::chrono::milliseconds(50);
  const auto pool = *Pool::start(settings, bench.resources());
  ASSERT_TRUE(bench.wait_until([&] { return pool->status().warm == 1; }));
  const CloneInfo doomed = pool->clones().front().info;
  bench.set_behaviour(GetParam().behaviour);
  const Result<CloneInfo> refused = pool->acquire({}, SteadyClock::now() + std::chrono::milliseconds(1));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find(GetParam().said), std::string::npos) << refused.error().message();
  bench.set_behaviour("");
  const Result<CloneInfo> clone = pool->acquire({}, SteadyClock::now() + std::chrono::minutes(1));
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_NE(clone->id, doomed.id);
  EXPECT_TRUE(bench.wait_until([&] { return !bench.groups().contains("clone-" + doomed.id); }));
  EXPECT_FALSE(std::filesystem::exists(doomed.socket_path));
  EXPECT_EQ(pool->status().running, 1U);
  EXPECT_EQ(pool->status().leaks, 0U);
}

std::string name_of(const testing::TestParamInfo<Step>& info) {
  std::string name = info.param.behaviour;
  std::erase(name, '-');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Each, PoolFailClosedTest,
                         testing::Values(Step{"fail-identity", "fake cannot set the clock"},
                                         Step{"silent-identity", "identity"}, Step{"garbage-identity", "identity"},
                                         Step{"other-uuid", "another UUID"}, Step{"slow-clock", "behind the host's"},
                                         Step{"fast-clock", "ahead of the host's"},
                                         Step{"die-at-identity", "hand-over: "},
                                         Step{"error-at-unpark", "fake refuses unpark"},
                                         Step{"die-at-unpark", "hand-over: "}),
                         name_of);

}  // namespace
}  // namespace granary::pool
