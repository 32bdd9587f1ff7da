// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "agent/adaptive/policy.h"
#include "vmpool/base/result.h"

namespace granary::adaptive {

// What policies have learned, by pool, as a file: a line per pool, "<CRC-32, 8 hex digits> <JSON object>\n". It is
// hostile input when it is read: a line that is damaged, or whose numbers no policy could have learned, is refused
// alone.
using LearnedPools = std::map<std::string, Learned>;

struct LoadedPools {
  LearnedPools pools;
  std::vector<std::string> refused;  // "line 3: why"
};

// `wall`: seconds since 1970 now. What lies between writing and reading counts as time without acquires, less than none
// as none.
std::string to_text(const LearnedPools& pools, double wall);
LoadedPools parse_learned(std::string_view text, double wall);

// Replaces the file whole, and durably. errno errors with the path.
Status save_learned(const std::string& path, const LearnedPools& pools, double wall);
// A file that is not there has no pools; errno errors, EFBIG among them.
Result<LoadedPools> load_learned(const std::string& path, double wall);

}  // namespace granary::adaptive
