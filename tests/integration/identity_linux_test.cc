// SPDX-License-Identifier: Apache-2.0
// Clones of one template are different machines: what identity_probe.c prints of each, all at once. The parameter: a
// guest image's name.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "tests/integration/linux_clones.h"
#include "vmpool/pool/linux_image.h"

namespace granary::integration {
namespace {

using pool::CloneInfo;

constexpr size_t kClones = 100;
// A key that clones share shows as hashes that are equal but for the time between two calls.
constexpr int32_t kSameHashUnits = 50'000'000 / 64;

class IdentityLinuxTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    settings_ = bench_.settings();
    settings_.source = pool::linux_image(GetParam());
    settings_.shape = {.name = "linux", .vcpus = 1, .memory_bytes = 128 * kMiB};
    settings_.size = 2;
    settings_.max = kClones + 2;
    settings_.refill_concurrency = 1;
    settings_.boot_timeout = std::chrono::seconds(400);
    settings_.probe_timeout = settings_.identity_timeout = std::chrono::seconds(60);
    if (const std::string missing = pool::missing_image(settings_.source); !missing.empty()) GTEST_SKIP() << missing;
    std::ifstream program(GRANARY_IDENTITY_PROBE, std::ios::binary);
    probe_ = {std::istreambuf_iterator<char>(program), {}};
    ASSERT_FALSE(probe_.empty());
  }
  void start() {
    auto pool = pool::Pool::start(settings_, bench_.resources());
    ASSERT_TRUE(pool) << pool.error().message();
    pool_ = *std::move(pool);
  }
  std::vector<CloneInfo> acquire(size_t count) {
    std::vector<CloneInfo> clones;
    while (clones.size() < count) {
      Result<CloneInfo> clone = pool_->acquire({}, in_time());
      EXPECT_TRUE(clone) << clone.error().message();
      if (!clone) break;
      clones.push_back(*std::move(clone));
    }
    return clones;
  }
  // Adds what the clone prints; a value that another one had fails the test.
  void probe(const CloneInfo& clone) {
    const CommandEnd end = run_script(clone.socket_path, "cat >/tmp/p && chmod +x /tmp/p && /tmp/p", probe_);
    ASSERT_EQ(end.status, 0) << end.output;
    std::istringstream lines(end.output);
    for (std::string name, value; lines >> name && std::getline(lines >> std::ws, value);) {
      ++count_[name];
      if (name == "isn-hash") {
        compare_hashes(value);
      } else {
        EXPECT_TRUE(seen_[name].insert(value).second) << name << " " << value << " twice, now of clone " << clone.id;
      }
    }
  }
  void compare_hashes(const std::string& value) {
    std::istringstream words(value);
    const std::vector<uint32_t> hashes{std::istream_iterator<uint32_t>(words), {}};
    EXPECT_GE(hashes.size(), 4U);
    for (const std::vector<uint32_t>& other : hashes_) {
      const bool same =
          std::equal(hashes.begin(), hashes.end(), other.begin(), other.end(),
                     [](uint32_t a, uint32_t b) { return std::abs(static_cast<int32_t>(a - b)) < kSameHashUnits; });
      EXPECT_FALSE(same) << "TCP sequence numbers of two clones come from the same key: " << value;
    }
    hashes_.push_back(hashes);
  }

  pool::TestBench bench_{GRANARY_VMM, "/dev/kvm"};
  pool::PoolSettings settings_;
  std::string probe_;
  std::unique_ptr<pool::Pool> pool_;
  std::map<std::string, size_t> count_;
  std::map<std::string, std::set<std::string>> seen_;
  std::vector<std::vector<uint32_t>> hashes_;
};

TEST_P(IdentityLinuxTest, AHundredClonesAtOnceDifferInEverything) {
  ASSERT_NO_FATAL_FAILURE(start());
  const std::vector<CloneInfo> clones = acquire(kClones);
  ASSERT_EQ(clones.size(), kClones);
  const std::string key = pool_->status().template_key;
  for (const CloneInfo& clone : clones) {
    EXPECT_EQ(clone.template_key, key);
    ASSERT_NO_FATAL_FAILURE(probe(clone));
  }
  for (const char* name : {"hostname", "uuid", "boot-id", "machine-id", "urandom", "getrandom-cpu0", "at-random",
                           "prng", "isn", "isn-hash", "connect-ports", "bind-ports"}) {
    EXPECT_EQ(count_[name], kClones) << name;
  }
  EXPECT_GE(count_["mac"], 2 * kClones) << "of two cards each";
  for (const CloneInfo& clone : clones) EXPECT_TRUE(*pool_->release(clone.id));
  EXPECT_EQ(pool_->status().leaks, 0U) << pool_->status().last_error;
}

std::string name_of(const testing::TestParamInfo<const char*>& info) { return info.param; }
INSTANTIATE_TEST_SUITE_P(Guest, IdentityLinuxTest, testing::Values("distro", "minimal"), name_of);

}  // namespace
}  // namespace granary::integration
