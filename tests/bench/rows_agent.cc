// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include "tests/bench/agent.h"
#include "tests/bench/rows.h"

namespace granary::bench {
namespace {

using pool::SteadyClock;

constexpr unsigned kDevices = 14;  // a pool's default set
// After the last clone's end and the refill, until the kernel is done with what they left (RCU, cgroups).
constexpr unsigned kRestUs = 50'000;

Result<Row> acquire_warm(const Settings& settings, const Guest& guest) {
  Row row{"acquire_warm",
          guest.name,
          "us",
          "Acquire RPC sent to an agent at rest -> reply: a warm clone runs with its identity acknowledged; " +
              std::to_string(kDevices) + " devices",
          {},
          ""};
  const auto agent = GRANARY_TRY(Agent::start(settings.programs, guest, {}));
  const unsigned n = guest.name == "tiny" ? settings.n : std::min(settings.n, 10U);
  for (unsigned i = 0; i < n; ++i) {
    ::usleep(kRestUs);
    const auto start = SteadyClock::now();
    const v1::Clone clone = GRANARY_TRY(agent->acquire());
    const auto took = SteadyClock::now() - start;
    if (clone.warm()) row.samples.push_back(microseconds(took));
    GRANARY_TRY(agent->release(clone));
    GRANARY_TRY(agent->wait_warm());
  }
  return row;
}

Result<Row> exec_true(const Settings& settings, const Guest& guest) {
  Row row{"exec_true",
          guest.name,
          "ms",
          "Exec RPC of /bin/true sent to a running clone -> exit code and end of stream; " + std::to_string(kDevices) +
              " devices",
          {},
          ""};
  const auto agent = GRANARY_TRY(Agent::start(settings.programs, guest, {}));
  const v1::Clone clone = GRANARY_TRY(agent->acquire());
  for (unsigned i = 0; i < std::min(settings.n, 30U); ++i) {
    const auto start = SteadyClock::now();
    const int code = GRANARY_TRY(agent->exec_true(clone));
    if (code != 0) return Error(Errc::kVmmFailed, "/bin/true ended with " + std::to_string(code));
    row.samples.push_back(microseconds(SteadyClock::now() - start) / 1e3);
  }
  GRANARY_TRY(agent->release(clone));
  return row;
}

}  // namespace

std::vector<RowSpec> agent_rows(const Settings& settings) {
  std::vector<RowSpec> rows = {{"acquire_warm", "tiny", [&] { return only(acquire_warm(settings, settings.tiny)); }}};
  for (const Guest& guest : settings.linux_guests) {
    rows.push_back({"acquire_warm", guest.name, [&settings, guest] { return only(acquire_warm(settings, guest)); }});
    rows.push_back({"exec_true", guest.name, [&settings, guest] { return only(exec_true(settings, guest)); }});
  }
  return rows;
}

}  // namespace granary::bench
