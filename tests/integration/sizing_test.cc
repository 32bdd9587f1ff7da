// SPDX-License-Identifier: Apache-2.0
// Budgets and memory pressure in a real granaryd; the VMM is a stand-in, and so is what the kernel says of memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "agent/adaptive/learned_file.h"
#include "tests/integration/agent_bench.h"
#include "tests/integration/test_pod.h"

namespace granary::integration {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

constexpr std::chrono::seconds kPatience{60};
constexpr uint64_t kMiB = 1 << 20;

class SizingTest : public testing::Test {
 protected:
  SizingTest() {
    fs::create_directories(bench_.path("proc/pressure"));
    tell_memory(1000, 0);
  }
  // As the kernel would: `free_mib` is free and available, tasks stall for so much of the last 10 s.
  void tell_memory(int free_mib, double stalled_percent) const {
    const std::string kib = std::to_string(free_mib * 1024);
    write("proc/meminfo", "MemFree: " + kib + " kB\nMemAvailable: " + kib + " kB\nInactive(file): 0 kB\n");
    write("proc/pressure/memory",
          "some avg10=" + std::to_string(stalled_percent) + " avg60=0.00 avg300=0.00 total=0\n");
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(bench_.path("new")) << text;
    fs::rename(bench_.path("new"), bench_.path(name));
  }
  void start(const std::string& pools, const std::string& top = "shutdown_grace: 0s") {
    std::ofstream(bench_.path("granary.yaml"))
        << "run_dir: " << bench_.path("run") << "\nstate_dir: " << bench_.path("state") << "\n"
        << top << "\nguest: {kernel: " << bench_.path("kernel") << ", initramfs: \"\"}\npools:\n"
        << pools;
    std::vector<std::string> command = bench_.agent_command();
    command.insert(command.end(), {"--proc", bench_.path("proc")});
    agent_ = std::make_unique<Process>(command);
    agent_->end_with({SIGTERM, SIGINT});
    ASSERT_TRUE(agent_->wait_for("ready version=")) << agent_->errors();
  }
  [[nodiscard]] json pools() const { return json::parse(bench_.ctl({"--output", "json", "status"}).output)["pools"]; }
  [[nodiscard]] json pool() const { return pools()[0]; }
  template <class Condition>
  bool wait_until(const Condition& condition) const {
    const auto limit = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() >= limit) return false;
      std::this_thread::yield();
    }
    return true;
  }
  bool has_warm(uint32_t count) const {
    return wait_until([&] { return pool()["warm"] == count && pool()["restoring"] == 0; });
  }
  static uint64_t number(const json& field) { return std::stoull(field.get<std::string>()); }
  // Every pool is filled up to what the budgets leave it, and all together keep within `budget`.
  bool settles_within(uint64_t budget) const {
    return wait_until([&] {
      uint64_t used = 0;
      bool settled = true;
      const json all = pools();
      for (const json& p : all) {
        used += p["warm"].get<uint64_t>() * number(p["clone_bytes"]) + number(p["other_bytes"]);
        settled = settled && p["warm"] == p["target"] && p["restoring"] == 0 && p["reclaiming"] == 0 && p["warm"] > 0;
      }
      return settled && used <= budget;
    });
  }
  OwnCgroups own_;  // budgets limit the pool part: not everybody's
  AgentBench bench_;
  std::unique_ptr<Process> agent_;
};

TEST_F(SizingTest, APoolStaysWithinItsBudget) {
  start("  - {name: a, memory: 1MiB, size: 60, max: 90, memory_budget: 12MiB}\n");
  ASSERT_TRUE(settles_within(12 * kMiB)) << pool();
  EXPECT_LT(pool()["target"], 60);
  EXPECT_THAT(bench_.ctl({"status"}).output, HasSubstr("of 60 idle clones: the pool's memory_budget"));
  const Outcome held = bench_.ctl({"acquire", "--owner", "me"});
  EXPECT_EQ(held.status, 0) << held.errors;
  EXPECT_TRUE(settles_within(12 * kMiB)) << "what the held clone touched counts: " << pool();
}

TEST_F(SizingTest, ABudgetBelowOneCloneKeepsNoneAndSaysSo) {
  start(
      "  - {name: a, memory: 1MiB, size: 3, memory_budget: 1MiB}\n"
      "  - {name: b, memory: 1MiB, size: 3, policy: adaptive, memory_budget: 1MiB}\n");
  ASSERT_TRUE(wait_until([&] {
    const json all = pools();
    return std::ranges::all_of(all, [](const json& p) {
      return p["template_state"] == "ready" && p["target"] == 0 && p["warm"] == 0 && p["restoring"] == 0;
    });
  })) << pools();
  EXPECT_EQ(pools()[0]["bound"], "the pool's memory_budget");
  EXPECT_THAT(bench_.ctl({"status"}).output, HasSubstr("0 of 3 idle clones: the pool's memory_budget"));
  EXPECT_TRUE(agent_->wait_for("pool=b text=\"0 instead of 3: 0 acquires/s")) << agent_->errors();
  EXPECT_THAT(agent_->errors(), HasSubstr("; budgets and pressure left 0"));
  for (const char* pool : {"a", "b"})
    EXPECT_EQ(bench_.ctl({"run", "--pool", pool, "-i", "--", "echo"}, "on demand").output, "on demand");
}

TEST_F(SizingTest, TheNodesBudgetIsSharedAndEveryMinKept) {
  start("  - {name: a, memory: 1MiB, size: 60, max: 90}\n  - {name: b, memory: 1MiB, size: 6, min: 3}\n",
        "shutdown_grace: 0s\nmemory_budget: 16MiB");
  ASSERT_TRUE(settles_within(16 * kMiB)) << pools();
  EXPECT_EQ(pools()[0]["bound"], "the node's memory_budget");
  EXPECT_GE(pools()[1]["warm"], 3);
}

TEST_F(SizingTest, StallsShedDownToMinAndCalmBringsThemBack) {
  start("  - {name: a, memory: 1MiB, size: 5, min: 2}\n");
  ASSERT_TRUE(has_warm(5));
  const auto events = bench_.start_ctl({"events"});
  ASSERT_TRUE(wait_until([&] {  // until the watch is there
    bench_.ctl({"run", "-i", "--", "echo"});
    return !events->output().empty();
  }));
  tell_memory(1000, 42.5);
  ASSERT_TRUE(has_warm(2)) << pool();
  EXPECT_TRUE(events->wait_for("pressure  pool=-  clone=-  high: memory.available 1000 MiB"));
  EXPECT_TRUE(events->wait_for("shed  pool=a"));
  EXPECT_EQ(pool()["bound"], "memory pressure");
  tell_memory(1000, 7);
  ASSERT_TRUE(agent_->wait_for("text=\"hold: "));
  EXPECT_EQ(pool()["warm"], 2) << "not before all is calm";
  tell_memory(1000, 0);
  EXPECT_TRUE(has_warm(5)) << pool();
  EXPECT_EQ(pool()["bound"], "");
}

TEST_F(SizingTest, NearEvictionEveryIdleCloneGoes) {
  start("  - {name: a, memory: 1MiB, size: 3, min: 3}\n", "shutdown_grace: 0s\nmin_available: 200MiB");
  ASSERT_TRUE(has_warm(3));
  const Outcome held = bench_.ctl({"acquire", "--owner", "me"});
  ASSERT_EQ(held.status, 0) << held.errors;
  tell_memory(199, 0);
  ASSERT_TRUE(has_warm(0)) << pool();
  EXPECT_EQ(pool()["running"], 1);
  EXPECT_TRUE(agent_->wait_for("text=\"critical: memory.available 199 MiB"));
  EXPECT_EQ(bench_.ctl({"exec", "-i", held.output.substr(0, 36), "--", "echo"}, "hello").output, "hello");
  EXPECT_EQ(bench_.ctl({"run", "-i", "--", "echo"}, "on demand").output, "on demand");
  tell_memory(1000, 0);
  EXPECT_TRUE(has_warm(3)) << pool();
}

TEST_F(SizingTest, AnAdaptivePoolStartsSensiblyAndSaysWhy) {
  start("  - {name: a, memory: 1MiB, size: 6}\n");
  ASSERT_TRUE(has_warm(6));
  EXPECT_EQ(pool()["policy"], "fixed");
  EXPECT_EQ(pool()["wanted"], 6);
  const std::string fixed = "size: 6}";
  std::ifstream file(bench_.path("granary.yaml"));
  std::string text((std::istreambuf_iterator<char>(file)), {});
  write("granary.yaml", text.replace(text.find(fixed), fixed.size(), "size: 6, policy: adaptive}"));
  ASSERT_TRUE(has_warm(4)) << pool();
  EXPECT_EQ(pool()["policy"], "adaptive");
  EXPECT_EQ(pool()["wanted"], 4);
  EXPECT_EQ(pool()["bound"], "") << "a wish is no bound";
  EXPECT_THAT(pool()["why"], HasSubstr("acquires/s"));
  EXPECT_THAT(bench_.ctl({"status"}).output, HasSubstr("a wants 4 of at most 6 idle clones: 4 to begin with: "));
  EXPECT_TRUE(agent_->wait_for("pool-wants pool=a text=\"4 to begin with: "));
}

// A day without an acquire: what was learned makes it give up all but `min`, and the next agent knows.
TEST_F(SizingTest, AnAdaptivePoolShrinksAndItsSuccessorKnowsWhatItLearned) {
  adaptive::Learned learned{.price = 100, .aim = 0.5, .tells_apart = true, .wish = 3};
  learned.demands[0].seconds = 86'400;
  fs::create_directories(bench_.path("state"));
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const double wall = std::chrono::duration<double>(now).count();
  ASSERT_TRUE(adaptive::save_learned(bench_.path("state/learned"), {{"a", learned}, {"gone", learned}}, wall));
  const std::string pools = "  - {name: a, memory: 1MiB, policy: adaptive, min: 1, max: 9}\n";
  start(pools);
  ASSERT_TRUE(has_warm(3));
  EXPECT_EQ(pool()["size"], 9) << "max, where no size is given";
  ASSERT_TRUE(has_warm(1)) << pool();
  EXPECT_EQ(bench_.ctl({"run", "-i", "--", "echo"}, "served").output, "served");
  agent_->signal(SIGTERM);
  ASSERT_EQ(agent_->wait(), 0) << agent_->errors();
  const auto kept = adaptive::load_learned(bench_.path("state/learned"), wall);
  ASSERT_TRUE(kept);
  EXPECT_TRUE(kept->refused.empty());
  ASSERT_EQ(kept->pools.size(), 1U) << "of configured pools";
  EXPECT_EQ(kept->pools.at("a").wish, 1U);
  EXPECT_GT(kept->pools.at("a").refill_seconds, 0);
  start(pools);
  ASSERT_TRUE(has_warm(1));
  EXPECT_EQ(pool()["wanted"], 1) << "4 without what was learned";
}

TEST_F(SizingTest, ADamagedFileOfWhatWasLearnedIsDoneWithout) {
  fs::create_directories(bench_.path("state"));
  std::ofstream(bench_.path("state/learned")) << "01234567 {\"pool\":\"a\"}\n";
  start("  - {name: a, memory: 1MiB, policy: adaptive, max: 9}\n");
  EXPECT_TRUE(agent_->wait_for("what a pool has learned is lost"));
  EXPECT_THAT(agent_->errors(), HasSubstr("line 1: wrong checksum"));
  EXPECT_TRUE(has_warm(4));
}

TEST_F(SizingTest, UnreadableMemoryCountsAsAmple) {
  fs::remove(bench_.path("proc/meminfo"));
  start("  - {name: a, memory: 1MiB, size: 2}\n");
  EXPECT_TRUE(agent_->wait_for("memory pressure is not seen"));
  EXPECT_TRUE(has_warm(2));
}

}  // namespace
}  // namespace granary::integration
