// SPDX-License-Identifier: Apache-2.0
// Clones of one template are different machines: what identity_probe.c prints of each, all at once. The parameter: a
// guest image's name.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "tests/integration/linux_clones.h"
#include "vmpool/guest/guest.pb.h"
#include "vmpool/pool/exec_session.h"
#include "vmpool/pool/linux_image.h"

namespace granary::integration {
namespace {

using pool::CloneInfo;

constexpr size_t kClones = 100;
// A key that clones share shows as hashes that are equal but for the time between two calls.
constexpr int32_t kSameHashUnits = 50'000'000 / 64;

int64_t now_ns() { return std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count(); }

// A guest's clocks, and the host's CLOCK_REALTIME before and after it looked at them.
struct Times {
  int64_t before_ns = 0;
  int64_t realtime_ns = 0;
  int64_t monotonic_ns = 0;
  int64_t after_ns = 0;

  [[nodiscard]] bool within(std::chrono::nanoseconds of_each_other) const {
    return realtime_ns >= before_ns - of_each_other.count() && realtime_ns <= after_ns + of_each_other.count();
  }
};

// "identity-probe clock" in a clone.
class ClockProbe {
 public:
  explicit ClockProbe(const CloneInfo& clone) {
    guest::v1::Exec request;
    request.add_argv("/tmp/p");
    request.add_argv("clock");
    request.set_has_stdin(true);
    auto session = pool::ExecSession::start(clone.socket_path, request, in_time());
    EXPECT_TRUE(session) << session.error().message();
    if (session) session_ = *std::move(session);
  }
  Times read() {
    Times times;
    if (!session_) return times;
    times.before_ns = now_ns();
    EXPECT_TRUE(session_->write_stdin("x", in_time()));
    std::string line;
    while (!line.ends_with("\n")) {
      const Result<std::optional<pool::ExecEvent>> event = session_->next(in_time());
      EXPECT_TRUE(event && *event && (*event)->kind != pool::ExecEvent::Kind::kExited);
      if (!event || !*event || (*event)->kind == pool::ExecEvent::Kind::kExited) return times;
      line += (*event)->data;
    }
    times.after_ns = now_ns();
    std::istringstream(line) >> times.realtime_ns >> times.monotonic_ns;
    return times;
  }

 private:
  std::unique_ptr<pool::ExecSession> session_;
};

class IdentityLinuxTest : public testing::TestWithParam<const char*> {
 protected:
  explicit IdentityLinuxTest(const char* vmm = GRANARY_VMM) : bench_(vmm, "/dev/kvm") {}
  void SetUp() override {
    bench_.print_events = true;
    settings_ = bench_.settings();
    settings_.source = pool::linux_image(GetParam());
    settings_.shape = {.name = "linux", .vcpus = vcpus_, .memory_bytes = 128 * kMiB};
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

  pool::TestBench bench_;
  uint32_t vcpus_ = 1;
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

// A VMM for which two hours pass whenever its guest stands still (long_park_clock.cc).
class LongParkTest : public IdentityLinuxTest {
 protected:
  LongParkTest() : IdentityLinuxTest(GRANARY_LONG_PARK_VMM) {}
  void SetUp() override {
    vcpus_ = 2;
    IdentityLinuxTest::SetUp();
  }
  // Each CPU's, since the boot.
  static std::vector<uint64_t> timer_interrupts(const CloneInfo& clone) {
    const CommandEnd end = run_script(clone.socket_path, "grep LOC: /proc/interrupts");
    std::istringstream words(end.output.substr(end.output.find(':') + 1));
    return {std::istream_iterator<uint64_t>(words), {}};
  }
};

TEST_P(LongParkTest, ClonesDifferAndTheirClocksAreRightAndStayIt) {
  // Once is enough for so many: in an emulated node they take minutes.
  const size_t count = std::string(GetParam()) == "distro" ? kClones : kClones / 4;
  constexpr size_t kWatched = 6;  // the rest of the checks wait for granary-init's next look at the host's clock
  constexpr std::chrono::milliseconds kOff{50};
  constexpr int64_t kNsPerHour = 3'600'000'000'000;
  constexpr uint64_t kMostTicksPerS = 1000;  // four times CONFIG_HZ; two hours made up for would be 1.8 million
  ASSERT_NO_FATAL_FAILURE(start());
  const std::vector<CloneInfo> clones = acquire(count);
  ASSERT_EQ(clones.size(), count);
  for (size_t i = 0; i < clones.size(); ++i) {
    const CloneInfo& clone = clones[i];
    ASSERT_NO_FATAL_FAILURE(probe(clone));
    ClockProbe clock(clone);
    const Times times = clock.read();
    EXPECT_TRUE(times.within(kOff)) << times.before_ns << " " << times.realtime_ns << " " << times.after_ns;
    EXPECT_LT(times.monotonic_ns, kNsPerHour) << "the park shows in CLOCK_MONOTONIC";
    if (i >= kWatched) continue;
    const std::vector<uint64_t> ticks = timer_interrupts(clone);
    EXPECT_EQ(ticks.size(), 2U);
    const uint64_t most = kMostTicksPerS * (static_cast<uint64_t>(clock.read().monotonic_ns) / 1'000'000'000 + 1);
    for (const uint64_t each : ticks) EXPECT_LE(each, most);
    EXPECT_EQ(run_script(clone.socket_path, "dmesg | grep -iE 'lockup|stall'").output, "");
    EXPECT_EQ(run_script(clone.socket_path, "date -s '2001-02-03 04:05:06'").status, 0);
    EXPECT_TRUE(bench_.wait_until([&] { return clock.read().within(kOff); })) << "granary-init does not keep the clock";
  }
  EXPECT_EQ(count_["getrandom-cpu1"], count);
  for (const CloneInfo& clone : clones) EXPECT_TRUE(*pool_->release(clone.id));
}

std::string name_of(const testing::TestParamInfo<const char*>& info) { return info.param; }
INSTANTIATE_TEST_SUITE_P(Guest, IdentityLinuxTest, testing::Values("distro", "minimal"), name_of);
INSTANTIATE_TEST_SUITE_P(Guest, LongParkTest, testing::Values("distro", "minimal"), name_of);

}  // namespace
}  // namespace granary::integration
