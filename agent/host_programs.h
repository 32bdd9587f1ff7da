// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/result.h"

namespace granary::agent {

// For an agent in a container, whose image must be free to go while its clones live on: copies granary-spawn and
// granary-vmm of `from` into a directory of `into` that is named by their build ids, so that versions lie side by side
// and what runs is never overwritten. Returns that directory. What is there already stays; a copy appears whole or not
// at all.
Result<std::string> install_programs(const std::string& from, const std::string& into, const std::string& version);

}  // namespace granary::agent
