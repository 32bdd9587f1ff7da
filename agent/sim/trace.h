// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <istream>
#include <string>
#include <string_view>
#include <vector>

#include "vmpool/base/result.h"

namespace granary::sim {

// When a clone was asked for: seconds since the trace's first acquire, not decreasing, at most kMostSeconds.
using Trace = std::vector<double>;

inline constexpr double kMostSeconds = 366.0 * 86'400;
inline constexpr size_t kMostAcquires = 20'000'000;

// CSV, as `SECONDS[,COUNT]` per line: when, and how many at once (1). Seconds since anything, such as the
// epoch. A first line of names, empty lines and lines that start with '#' are skipped. kInvalidArgument
// "NAME:LINE: reason; remedy": no number, negative, later than kMostSeconds after the first, before the line above it,
// more than `most_acquires`, or nothing at all.
Result<Trace> parse_trace(std::istream& text, const std::string& name, size_t most_acquires = kMostAcquires);

}  // namespace granary::sim
