// SPDX-License-Identifier: Apache-2.0
// granary-vmm: one microVM. No arguments, no environment: see vmpool/base/vmm_fds.h for what it inherits and
// vmpool/base/control_protocol.h for what it is told. Exit codes: 0 after an orderly end (the status page says which),
// 1 when it could not start or its event loop failed.
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>

#include <cstdio>

#include "vmpool/base/log.h"
#include "vmpool/base/time_slice.h"
#include "vmpool/base/vmm_fds.h"
#include "vmpool/vmm/seccomp.h"
#include "vmpool/vmm/vmm.h"

namespace granary::vmm {
namespace {

Result<Fd> inherit(int number, const char* what) {
  Fd fd(number);
  if (::fcntl(number, F_SETFD, FD_CLOEXEC) == 0) return fd;
  const Error error = Error::last_os_error(std::string("inherited descriptor ") + std::to_string(number) + ", the " +
                                           what + " (started by granary-spawn?)");
  (void)fd.release();
  return error;
}

// What granary-spawn cannot do for it (an exec undoes it), and what it has done already, for whoever else starts this.
Status prepare() {
  if (::prctl(PR_SET_DUMPABLE, 0) != 0) return Error::last_os_error("forbid core dumps and ptrace");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Error::last_os_error("set no_new_privs");
  ::prctl(PR_SET_NAME, "granary-vmm");  // for people: started through a descriptor, it would be called "12"
  // A device's peer that closes its socket is an error code, not a reason to die; a file at its size limit as well.
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  // For the loop thread, not for vCPUs.
  prefer_short_time_slices(Children::kDefault);
  // One heap for all threads: a second one would open files of /proc and change protections later.
  ::mallopt(M_ARENA_MAX, 1);
  return ok();
}

Status run() {
  GRANARY_TRY(prepare());
  Inheritance inheritance{GRANARY_TRY(inherit(vmm_fds::kControlSocket, "control socket")),
                          GRANARY_TRY(inherit(vmm_fds::kStatusPage, "status page")),
                          GRANARY_TRY(inherit(vmm_fds::kVsockListener, "vsock listener")),
                          GRANARY_TRY(inherit(vmm_fds::kKvm, "KVM device"))};
  const std::unique_ptr<Vmm> vmm = GRANARY_TRY(Vmm::create(std::move(inheritance)));
  GRANARY_TRY(seccomp::enter(seccomp::Filter::kSetup));
  return vmm->run();
}

}  // namespace
}  // namespace granary::vmm

int main() {
  granary::set_log_prefix("granary-vmm");
  const granary::Status status = granary::vmm::run();
  if (status) return 0;
  granary::log_line(granary::LogLevel::kError, "%s", status.error().message().c_str());
  return 1;
}
