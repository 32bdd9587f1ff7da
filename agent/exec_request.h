// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "vmpool/base/result.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::agent {

// What a command's arguments and environment may have together: the guest protocol's frame, less room for the rest of
// it.
inline constexpr size_t kMaxExecBytes = (1 << 20) - 8192;
inline constexpr size_t kMaxCwdBytes = 4096;  // PATH_MAX

// A command to run in a guest, checked. kInvalidArgument, with value and limit: no command, too long, a zero byte
// inside, an environment entry without a name. A PATH is added where the caller gave none, because the environment is
// the whole environment.
struct Command {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string cwd;
};
Result<guest::v1::Exec> to_exec(const Command& command);

}  // namespace granary::agent
