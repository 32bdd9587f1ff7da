// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/sizing.h"
#include "vmpool/base/result.h"

namespace granary::agent {

// What the kernel says of the node's memory.
struct MemoryFiles {
  std::string meminfo = "/proc/meminfo";
  std::vector<std::string> stalls = {"/proc/pressure/memory"};  // PSI; those that are not there are left out
};

struct MemoryReading {
  // The kubelet's memory.available, which it compares with its eviction threshold: capacity without the working set,
  // and that is what is used without the inactive file pages. From /proc/meminfo: MemFree + Inactive(file), as the
  // kubelet on cgroup v2; on v1 its own figure is larger by uncharged kernel memory.
  uint64_t kubelet_available_bytes = 0;
  uint64_t available_bytes = 0;           // MemAvailable
  std::optional<double> stalled_percent;  // the largest "some avg10"; nothing where the kernel has no PSI
};

// kProtocolMalformed for a meminfo that lacks a line; an errno error when it cannot be read.
Result<MemoryReading> read_memory(const MemoryFiles& files);

// How short memory is, with hysteresis.
//   critical  memory.available is below `min_available`
//   high      tasks stall for 10 % of the last 10 s, or, without PSI, MemAvailable is below twice `min_available`
//   hold      after one of these, until five looks in a row saw stalls of less than half of that (without PSI:
//   MemAvailable
//             of four times `min_available`), and memory.available a quarter above `min_available`
class Pressure {
 public:
  // One look; the new level.
  PressureLevel look(const MemoryReading& now, uint64_t min_available);
  [[nodiscard]] PressureLevel level() const { return level_; }

 private:
  PressureLevel level_ = PressureLevel::kNone;
  int calm_looks_ = 0;
};

// "memory.available 812 MiB, 12.3 % stalled", for people.
std::string to_text(const MemoryReading& reading);

}  // namespace granary::agent
