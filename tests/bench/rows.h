// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tests/bench/figures.h"
#include "tests/bench/lab.h"

namespace granary::bench {

struct Settings {
  unsigned n = 100;      // samples of the quick rows
  std::string programs;  // folder of granaryd, granary-spawn, granary-vmm
  Guest bell;            // tiny-bell.elf: says when it was restored
  Guest tiny;            // tiny-vsock.elf
  std::vector<Guest> linux_guests;
};

// One measurement, on one guest: of a row, or of several that come out of the same run.
struct RowSpec {
  std::string name;
  std::string guest;
  std::function<Result<std::vector<Row>>()> measure;
};
inline Result<std::vector<Row>> only(Result<Row> row) {
  if (!row) return row.error();
  return std::vector<Row>{*std::move(row)};
}

// Rows that drive VMMs over the control protocol. Without a lab they can be named but not measured.
std::vector<RowSpec> vmm_rows(Lab* lab, const Settings& settings);
// Rows that count what times are made of: exits, and guests' instructions where the host has counters for them.
std::vector<RowSpec> count_rows(Lab* lab, const Settings& settings);
// Rows about the speed of Linux guests' network.
std::vector<RowSpec> net_speed_rows(Lab* lab, const Settings& settings);
// Rows about Linux guests' files.
std::vector<RowSpec> fs_rows(Lab* lab, const Settings& settings);
// Rows about frames through a tiny guest.
std::vector<RowSpec> net_echo_rows(Lab* lab, const Settings& settings);
// Rows that go through granaryd's gRPC service.
std::vector<RowSpec> agent_rows(const Settings& settings);
// Rows about pods' cgroups; the first needs the lab.
std::vector<RowSpec> cgroup_rows(Lab* lab, const Settings& settings);
// Rows about pods' networks.
std::vector<RowSpec> net_rows(const Settings& settings);
// Rows about the agent's own network.
std::vector<RowSpec> own_net_rows(const Settings& settings);
// Rows about many callers and many clones.
std::vector<RowSpec> pool_rows(const Settings& settings);
// Rows about pods under containerd.
std::vector<RowSpec> pod_rows(const Settings& settings);

inline double microseconds(std::chrono::nanoseconds time) { return static_cast<double>(time.count()) / 1e3; }

}  // namespace granary::bench
