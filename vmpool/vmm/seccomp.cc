// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/seccomp.h"

#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <span>

#include "vmpool/base/log.h"
#include "vmpool/vmm/seccomp_filters.h"

namespace granary::vmm::seccomp {
namespace {

// Not used in sanitizer builds, which run without filters.
[[maybe_unused]] std::span<const sock_filter> program_of(Filter filter) {
  switch (filter) {
    case Filter::kSetup:
      return kSetupProgram;
    case Filter::kLoop:
      return kLoopProgram;
    case Filter::kVcpu:
      return kVcpuProgram;
    case Filter::kWorker:
      return kWorkerProgram;
  }
  return {};
}

}  // namespace

Status enter([[maybe_unused]] Filter filter) {
#ifndef GRANARY_SANITIZED
  const std::span<const sock_filter> program = program_of(filter);
  const sock_fprog argument{.len = static_cast<unsigned short>(program.size()),
                            .filter = const_cast<sock_filter*>(program.data())};
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &argument) != 0) {
    return Error::last_os_error("install the VMM's system-call filter (the kernel needs CONFIG_SECCOMP_FILTER)");
  }
#endif
  return ok();
}

void enter_or_end(Filter filter) {
  if (const Status done = enter(filter); !done) {
    log_line(LogLevel::kError, "%s", done.error().message().c_str());
    ::_exit(1);
  }
}

}  // namespace granary::vmm::seccomp
