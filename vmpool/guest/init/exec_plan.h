// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "vmpool/base/result.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::guest {

// An Exec request, checked, in the form the system calls want, so that nothing is allocated between fork and execve.
// Points into the request, which must outlive it.
struct ExecPlan {
  std::vector<char*> argv;  // ends with a null pointer, as does envp
  std::vector<char*> envp;
  std::string cwd;
  std::vector<std::string> candidates;  // paths to try in turn
  bool searched = false;                // the candidates come from PATH
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  std::vector<std::pair<int, rlimit>> rlimits;
};

// kInvalidArgument names the field that is out of bounds.
Result<ExecPlan> make_exec_plan(const v1::Exec& request);

}  // namespace granary::guest
