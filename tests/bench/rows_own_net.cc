// SPDX-License-Identifier: Apache-2.0
// What it costs to give a clone a card in the agent's own network. No KVM is needed.
#include <sched.h>

#include <filesystem>
#include <thread>

#include "agent/own_network.h"
#include "netplumb/ip_text.h"
#include "tests/bench/rows.h"

namespace granary::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr size_t kMostReady = 200;
constexpr size_t kBatch = 16;

Result<std::vector<Row>> measure_here(const Settings& settings, const std::string& folder) {
  Row plain{"net_attach_premade",
            "none",
            "us",
            "asked -> tap and configuration; made ahead, others are made meanwhile",
            {},
            ""};
  Row ruled{"net_attach_rules", "none", "us", "the same with two rules of the clone's own", {}, ""};
  Row release{"net_release",
              "none",
              "us",
              "released -> tap, route, rules gone and address free; off the path of a hand-over",
              {},
              ""};
  Row batch{"net_release_batch", "none", "us", "the same for 16 at once, each", {}, ""};
  netplumb::RoutedNetwork network;
  network.subnet = GRANARY_TRY(netplumb::parse_prefix("10.213.0.0/16"));
  network.up_bytes_per_second = network.down_bytes_per_second = 10'000'000;
  const auto own = GRANARY_TRY(agent::OwnNetwork::start(network, folder, {}));
  const size_t ready = std::min<size_t>(settings.n, kMostReady);
  own->keep_ready(ready);
  // Until those are there.
  while (GRANARY_TRY(netplumb::find_taps()).size() < ready || !own->differences({}).empty()) std::this_thread::yield();
  const auto timed = [](Row& row, const auto& action) -> Status {
    const auto start = SteadyClock::now();
    Status done = action();
    row.samples.push_back(microseconds(SteadyClock::now() - start));
    return done;
  };
  std::vector<std::string> held;
  for (size_t i = 0; i < 2 * ready; ++i) {
    const bool with_rules = i % 2 == 1;
    GRANARY_TRY(timed(with_rules ? ruled : plain, [&]() -> Status {
      const auto allow =
          with_rules ? std::vector<std::string>{"10.0.0.0/8", "tcp:198.51.100.0/24:443"} : std::vector<std::string>();
      held.push_back(GRANARY_TRY(own->take(allow)).address);
      return ok();
    }));
  }
  for (size_t i = 0; i < held.size() / 2; ++i) {
    GRANARY_TRY(timed(release, [&] { return own->release(held[i]); }));
  }
  for (size_t i = held.size() / 2; i + kBatch <= held.size(); i += kBatch) {
    const auto start = SteadyClock::now();
    for (size_t n = 0; n < kBatch; ++n) own->give_up(held[i + n]);
    for (size_t n = 0; n < kBatch; ++n) GRANARY_TRY(own->release(held[i + n]));
    batch.samples.push_back(microseconds(SteadyClock::now() - start) / kBatch);
  }
  return std::vector<Row>{std::move(plain), std::move(ruled), std::move(release), std::move(batch)};
}

// On a thread of its own, whose namespace goes with it.
Result<std::vector<Row>> measure(const Settings& settings) {
  std::string folder = (std::filesystem::temp_directory_path() / "granary-bench-net-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) return Error::last_os_error("a folder for the address store");
  Result<std::vector<Row>> rows = Error(Errc::kNotSupported, "a network namespace");
  std::thread([&] {
    if (::unshare(CLONE_NEWNET) != 0) {
      rows = Error::last_os_error("a network namespace (root?)");
      return;
    }
    rows = measure_here(settings, folder);
  }).join();
  std::filesystem::remove_all(folder);
  return rows;
}

}  // namespace

std::vector<RowSpec> own_net_rows(const Settings& settings) {
  return {{"net_attach_premade", "none", [&settings] { return measure(settings); }}};
}

}  // namespace granary::bench
