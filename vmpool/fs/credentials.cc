// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/credentials.h"

#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace granary::fs {
namespace {

struct Capabilities {
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
};

__user_cap_header_struct this_thread() { return {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0}; }

// What the process has from its start on. By system calls: libcap-ng's state would be one more to keep in step.
const Capabilities& own() {
  static const Capabilities found = [] {
    Capabilities all;
    __user_cap_header_struct header = this_thread();
    (void)::syscall(SYS_capget, &header, all.data);
    return all;
  }();
  return found;
}

// It cannot fail for a process that has these.
void set(const Capabilities& wanted) {
  __user_cap_header_struct header = this_thread();
  (void)::syscall(SYS_capset, &header, wanted.data);
}

}  // namespace

CallerCredentials::CallerCredentials(uid_t uid, gid_t gid, mode_t umask) : is_root_(uid == 0) {
  Capabilities for_caller = own();
  ::umask(umask & 0777);
  ::setfsgid(gid);
  if (is_root_) return;
  ::setfsuid(uid);
  for_caller.data[0].effective &= ~(1U << CAP_FSETID);
  set(for_caller);
}

CallerCredentials::~CallerCredentials() {
  ::umask(0);
  ::setfsgid(0);
  if (is_root_) return;
  ::setfsuid(0);
  set(own());
}

}  // namespace granary::fs
