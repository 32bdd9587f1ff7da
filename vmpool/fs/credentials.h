// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

namespace granary::fs {

// While it lives, what this thread creates belongs to the guest's caller, under its umask. The guest's kernel has
// checked permissions already, with groups that FUSE does not tell, so they are not checked once more: the
// capabilities that a change of uid takes away come back, but for CAP_FSETID, so that a set-gid bit goes where it would
// go for the caller.
class CallerCredentials {
 public:
  CallerCredentials(uid_t uid, gid_t gid, mode_t umask);
  ~CallerCredentials();
  CallerCredentials(const CallerCredentials&) = delete;
  CallerCredentials& operator=(const CallerCredentials&) = delete;

 private:
  bool is_root_;
};

}  // namespace granary::fs
