// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace granary::pool {

// What /proc (proc(5)) says of a process: nothing, 0, of one that has ended or may not be looked at.

// User and system time, in ticks of sysconf(_SC_CLK_TCK).
uint64_t cpu_ticks(pid_t pid);
// A field of smaps_rollup: "Pss", "Pss_Anon" …
uint64_t rollup_bytes(pid_t pid, std::string_view field);
// Of its first thread, in no order.
std::vector<pid_t> children_of(pid_t pid);

}  // namespace granary::pool
