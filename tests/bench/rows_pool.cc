// SPDX-License-Identifier: Apache-2.0
// Rows about a pool as a whole, on the tiny guest: many callers, many clones.
#include <poll.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <mutex>
#include <thread>

#include "tests/bench/agent.h"
#include "tests/bench/rows.h"
#include "vmpool/base/units.h"
#include "vmpool/pool/process_use.h"

namespace granary::bench {
namespace {

using pool::SteadyClock;
using std::chrono::seconds;

constexpr unsigned kBurst = 32;
constexpr unsigned kChurners = 4;
constexpr seconds kChurnTime{60};
constexpr seconds kIdleTime{10};
constexpr unsigned kTinyMemoryMib = 16;
constexpr unsigned kSizes[] = {1, 10, 100, 500};

double seconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

Agent::PoolSize pool_of(unsigned size) { return {.size = size, .max = size + 8, .memory_mib = kTinyMemoryMib}; }

Row row(const std::string& name, const std::string& unit, const std::string& clock) {
  return {.name = name, .guest = "tiny", .unit = unit, .clock = clock, .samples = {}, .skipped = ""};
}

// The callers' clones, or the first error of any.
Result<std::vector<v1::Clone>> burst(Agent& agent) {
  std::mutex mutex;
  std::vector<v1::Clone> clones;
  Status failed = ok();
  {
    std::vector<std::jthread> callers;
    for (unsigned i = 0; i < kBurst; ++i) {
      callers.emplace_back([&] {
        Result<v1::Clone> clone = agent.acquire();
        const std::lock_guard lock(mutex);
        if (clone) {
          clones.push_back(*std::move(clone));
        } else {
          failed = Status(clone.error());
        }
      });
    }
  }
  GRANARY_TRY(failed);
  return clones;
}

Result<std::vector<Row>> bursts(const Settings& settings) {
  Row acquire =
      row("acquire_burst_32", "ms", "32 Acquire RPCs sent at once to a pool of 32 warm clones -> the last reply");
  Row refill = row("refill_rate", "1/s", "clones per second: 32 clones released -> the pool has 32 warm ones again");
  const auto agent =
      GRANARY_TRY(Agent::start(settings.programs, settings.tiny, {kBurst, 2 * kBurst + 8, kTinyMemoryMib}));
  for (unsigned i = 0; i < std::min(settings.n, 10U); ++i) {
    const auto start = SteadyClock::now();
    const std::vector<v1::Clone> clones = GRANARY_TRY(burst(*agent));
    acquire.samples.push_back(seconds_since(start) * 1e3);
    for (const v1::Clone& clone : clones) GRANARY_TRY(agent->release(clone));
    const auto released = SteadyClock::now();
    const unsigned missing = kBurst - std::min(kBurst, GRANARY_TRY(agent->status()).warm());
    GRANARY_TRY(agent->wait_warm());
    if (missing > 0) refill.samples.push_back(missing / seconds_since(released));
  }
  return std::vector<Row>{acquire, refill};
}

Result<std::vector<Row>> churn(const Settings& settings) {
  Row cycles =
      row("churn", "1/s", "Acquire + Release cycles that ended in each second, four callers, sustained; 0 leaks");
  Row reclaim =
      row("reclaim_proven", "us", "Release RPC sent -> reply: nothing of the clone is left; while four callers churn");
  const auto agent = GRANARY_TRY(Agent::start(settings.programs, settings.tiny, {8, 32, kTinyMemoryMib}));
  const seconds time = settings.n < 100 ? seconds(3) : kChurnTime;
  std::atomic<unsigned> done = 0;
  std::mutex mutex;
  Status failed = ok();
  {
    std::vector<std::jthread> callers;
    for (unsigned i = 0; i < kChurners; ++i) {
      callers.emplace_back([&](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
          const Result<v1::Clone> clone = agent->acquire();
          const auto start = SteadyClock::now();
          const Status released = clone ? agent->release(*clone) : Status(clone.error());
          const std::lock_guard lock(mutex);
          if (!released) {
            failed = released;
            return;
          }
          reclaim.samples.push_back(microseconds(SteadyClock::now() - start));
          ++done;
        }
      });
    }
    for (seconds second{0}; second < time; ++second) {
      const unsigned before = done;
      ::poll(nullptr, 0, 1000);
      cycles.samples.push_back(done - before);
    }
  }
  GRANARY_TRY(failed);
  const v1::PoolStatus status = GRANARY_TRY(agent->status());
  if (status.leaks() > 0) return Error(Errc::kVmmFailed, std::to_string(status.leaks()) + " leaks");
  return std::vector<Row>{cycles, reclaim};
}

int64_t available_kib() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string word; meminfo >> word;) {
    int64_t kib = 0;
    if (word == "MemAvailable:" && meminfo >> kib) return kib;
  }
  return 0;
}

double resident_mib(pid_t pid) {
  std::ifstream statm("/proc/" + std::to_string(pid) + "/statm");
  double total = 0;
  double resident = 0;
  statm >> total >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / static_cast<double>(kMiB);
}

double cpu_seconds(pid_t pid) {
  return static_cast<double>(pool::cpu_ticks(pid)) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

double cpu_seconds_of_all(const Agent& agent) {
  double sum = cpu_seconds(agent.pid());
  for (const pid_t pid : family_of(agent.spawner_pid())) sum += cpu_seconds(pid);
  return sum;
}

Status acquire_at(Agent& agent, const Settings& settings, Row& row) {
  for (unsigned i = 0; i < std::min(settings.n, 50U); ++i) {
    ::poll(nullptr, 0, 50);
    const auto start = SteadyClock::now();
    const v1::Clone clone = GRANARY_TRY(agent.acquire());
    row.samples.push_back(microseconds(SteadyClock::now() - start));
    GRANARY_TRY(agent.release(clone));
    GRANARY_TRY(agent.wait_warm());
  }
  return ok();
}

// One agent per size, and all that can be told of it at rest.
Result<std::vector<Row>> sizes(const Settings& settings) {
  std::vector<Row> rows;
  for (const unsigned size : kSizes) {
    const std::string of = std::to_string(size);
    const int64_t before = available_kib();
    const auto agent = GRANARY_TRY(Agent::start(settings.programs, settings.tiny, pool_of(size)));
    ::poll(nullptr, 0, 500);
    Row density = row("density_" + of, "MiB",
                      "MemAvailable lost, by warm clone, to an agent with " + of +
                          " of them, kernel memory, agent, spawner and template included");
    density.samples.push_back(static_cast<double>(before - available_kib()) / 1024 / size);
    Row rss = row("agent_rss_" + of, "MiB", "resident memory of granaryd with " + of + " warm clones");
    rss.samples.push_back(resident_mib(agent->pid()));
    Row idle = row("idle_cpu_" + of, "%", "of one core, in 10 s: agent, spawner and " + of + " parked VMMs");
    const double used = cpu_seconds_of_all(*agent);
    ::poll(nullptr, 0, static_cast<int>(kIdleTime.count()) * 1000);
    idle.samples.push_back((cpu_seconds_of_all(*agent) - used) * 100 / static_cast<double>(kIdleTime.count()));
    Row acquire = row("acquire_of_" + of, "us", "as acquire_warm, from a pool of " + of + " warm clones");
    GRANARY_TRY(acquire_at(*agent, settings, acquire));
    for (Row& one : {std::ref(density), std::ref(rss), std::ref(idle), std::ref(acquire)})
      rows.push_back(std::move(one));
  }
  return rows;
}

}  // namespace

std::vector<RowSpec> pool_rows(const Settings& settings) {
  return {{"burst", "tiny", [&] { return bursts(settings); }},
          {"churn", "tiny", [&] { return churn(settings); }},
          {"sizes", "tiny", [&] { return sizes(settings); }}};
}

}  // namespace granary::bench
