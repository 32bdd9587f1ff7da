// SPDX-License-Identifier: Apache-2.0
// Any text is a trace in order and within its bounds, or is refused with its line.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <sstream>

#include "agent/sim/trace.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary::sim;
  constexpr size_t kMost = 100'000;
  std::istringstream text(std::string(reinterpret_cast<const char*>(data), size));
  const auto trace = parse_trace(text, "f", kMost);
  if (!trace) {
    if (!trace.error().is(granary::Errc::kInvalidArgument) || !trace.error().context().starts_with("f:")) abort();
    return 0;
  }
  if (trace->empty() || trace->size() > kMost || trace->front() != 0 || trace->back() > kMostSeconds) abort();
  if (!std::is_sorted(trace->begin(), trace->end())) abort();
  return 0;
}
