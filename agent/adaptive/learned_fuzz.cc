// SPDX-License-Identifier: Apache-2.0
// Whatever a file of learned numbers says: a policy that starts from it stays within its bounds.
#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "agent/adaptive/learned_file.h"

namespace {

// As a line with the right checksum, so that what comes after it is reached.
std::string line_of(std::string_view object) {
  const uLong sum = ::crc32(0, reinterpret_cast<const Bytef*>(object.data()), static_cast<uInt>(object.size()));
  char text[16];
  std::snprintf(text, sizeof(text), "%08lx ", sum);
  return text + std::string(object) + "\n";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary::adaptive;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  constexpr double kWall = 1'800'000'000;
  LoadedPools loaded = parse_learned(text, kWall);
  loaded.pools.merge(parse_learned(line_of(text), kWall).pools);
  for (auto& [name, learned] : loaded.pools) {
    Policy policy(learned);
    uint32_t wish = 0;
    for (int i = 0; i < 200; ++i) {
      const double now = 5.0 * i;
      const Decision decision = policy.decide({.now = now, .wall = kWall + now, .min = 1, .most = 70, .hits = 1});
      if (decision.wish < 1 || decision.wish > 70 || decision.worth.size() != decision.wish) abort();
      if (i > 0 && decision.wish > wish + std::max(wish, 4U)) abort();
      wish = decision.wish;
      if (i % 3 == 0) policy.asked(now + 1);
      policy.refilled(0.3);
    }
    const LoadedPools again = parse_learned(to_text({{name, policy.learned()}}, kWall), kWall);
    if (again.pools.size() != 1) abort();
  }
  return 0;
}
