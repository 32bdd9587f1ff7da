// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "vmpool/base/result.h"

namespace granary::agent {

// For an agent in a container, whose image must be free to go while its clones live on: copies granary-spawn,
// granary-vmm, granary-fsd and containerd-shim-granary-v2 of `from` into a directory of `into` that is named by their build ids, so that versions lie side by side
// and what runs is never overwritten. Returns that directory. What is there already stays; a copy appears whole or not
// at all.
Result<std::string> install_programs(const std::string& from, const std::string& into, const std::string& version);

struct OldPrograms {
  std::vector<std::string> removed;    // directories
  std::vector<std::string> left_over;  // what could not be removed and why
};
// Removes directories of install_programs() beside `own` (other versions') that no process of `proc` executes from,
// which must show all of the host's: the agent has its pid namespace. It tells by the files themselves: a jailed VMM's
// /proc/PID/exe has no path. What is not named and filled as install_programs() does it stays; so does everything when
// there is a process whose program cannot be told.
OldPrograms remove_unused_programs(const std::string& own, const std::string& proc = "/proc");

}  // namespace granary::agent
