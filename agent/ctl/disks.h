// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "granary/v1/pool.pb.h"
#include "vmpool/base/result.h"

namespace CLI {
class App;
}

namespace granary::ctl {

// --disk PATH[:ro], repeatable.
void define_disks(CLI::App& command, std::vector<std::string>& disks);

// Adds the option's values to a request. The agent opens the files, so a relative path is completed here, where it
// means something. kInvalidArgument for an empty path.
Status add_disks(v1::AcquireRequest& request, const std::vector<std::string>& disks);

}  // namespace granary::ctl
