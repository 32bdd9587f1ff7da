// SPDX-License-Identifier: Apache-2.0
#include "agent/pod_shape.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

#include "vmpool/base/units.h"

namespace granary::agent {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const PoolShape kShapes[] = {{"default", 512 * kMiB, 1}, {"large", 4 * kGiB, 4}, {"small", 256 * kMiB, 1}, {"wide", 512 * kMiB, 2}};

std::string fit(uint64_t mib, unsigned vcpus) {
  const Result<std::string> pool = smallest_fit(kShapes, {.memory_bytes = mib * kMiB, .vcpus = vcpus});
  return pool ? *pool : "none";
}

TEST(PodShapeTest, TheSmallestWithRoomIsTaken) {
  EXPECT_EQ(fit(0, 0), "default");
  EXPECT_EQ(fit(1, 0), "small");
  EXPECT_EQ(fit(0, 1), "small");
  EXPECT_EQ(fit(100, 2), "wide");
  EXPECT_EQ(fit(400, 1), "default");
  EXPECT_EQ(fit(512, 1), "large");
  EXPECT_EQ(fit(1, 3), "large");
  EXPECT_EQ(fit(4096, 1), "none");
  EXPECT_EQ(fit(1, 5), "none");
}

TEST(PodShapeTest, TheGuestsKernelHasItsPart) {
  EXPECT_EQ(memory_for_pod(0), 0U);
  EXPECT_EQ(memory_for_pod(72 * kMiB), 0U);
  EXPECT_EQ(memory_for_pod(512 * kMiB), (512 - 72 - 32) * kMiB);
  EXPECT_EQ(fit(408, 1), "default");
  EXPECT_EQ(fit(409, 1), "large");
}

TEST(PodShapeTest, ARefusalNamesWhatIsAskedAndWhatIsThere) {
  const Result<std::string> pool = smallest_fit(kShapes, {.memory_bytes = 8 * kGiB, .vcpus = 2});
  ASSERT_FALSE(pool);
  EXPECT_TRUE(pool.error().is(Errc::kInvalidArgument));
  EXPECT_THAT(pool.error().message(), AllOf(HasSubstr("8192 MiB and 2 vCPUs"), HasSubstr("pool large has 3768 MiB")));
  EXPECT_TRUE(check_fit(kShapes[0], {.memory_bytes = 408 * kMiB, .vcpus = 1}));
  EXPECT_TRUE(check_fit(kShapes[0], {}));
  const Status chosen = check_fit(kShapes[0], {.memory_bytes = 409 * kMiB, .vcpus = 1});
  ASSERT_FALSE(chosen);
  EXPECT_THAT(chosen.error().message(), HasSubstr("pool default has 408 MiB"));
}

TEST(PodShapeTest, VcpusAreThoseThatCanUseTheQuotaUp) {
  EXPECT_EQ(PodNeeds::vcpus_of(0, 100'000), 0U);
  EXPECT_EQ(PodNeeds::vcpus_of(-1, 100'000), 0U);
  EXPECT_EQ(PodNeeds::vcpus_of(1, 100'000), 1U);
  EXPECT_EQ(PodNeeds::vcpus_of(100'000, 100'000), 1U);
  EXPECT_EQ(PodNeeds::vcpus_of(150'000, 100'000), 2U);
  EXPECT_EQ(PodNeeds::vcpus_of(150'000, 0), 2U);
  EXPECT_EQ(PodNeeds::vcpus_of(150'000, -5), 2U);
  EXPECT_EQ(PodNeeds::vcpus_of(std::numeric_limits<int64_t>::max(), 1), std::numeric_limits<unsigned>::max());
}

}  // namespace
}  // namespace granary::agent
