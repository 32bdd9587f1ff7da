// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/confine.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <malloc.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <algorithm>

#include "vmpool/fs/export_server.h"
#include "vmpool/fs/file_server.h"

namespace granary::fs {
namespace {

// A quarter of a million inodes pin about 300 MB of a host's memory, charged to the pod.
constexpr size_t kMaxNodes = 256 * 1024;
constexpr size_t kMaxHandles = 64 * 1024;
// Sockets, what one operation opens for a moment; exports and their clients.
constexpr size_t kOwnDescriptors = 64 + ExportServer::kMaxConnections + FileServer::kMaxExports;

#ifndef GRANARY_SANITIZED
// Any arguments.
constexpr int kCalls[] = {
    // messages, exports, the loop
    SCMP_SYS(recvfrom), SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(accept4), SCMP_SYS(getsockopt),
    SCMP_SYS(close), SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(poll),
    // names
    SCMP_SYS(openat), SCMP_SYS(openat2), SCMP_SYS(newfstatat), SCMP_SYS(readlinkat), SCMP_SYS(symlinkat),
    SCMP_SYS(mknodat), SCMP_SYS(mkdirat), SCMP_SYS(unlinkat), SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(linkat),
    SCMP_SYS(getdents64),
    // inodes
    SCMP_SYS(fchmodat), SCMP_SYS(fchownat), SCMP_SYS(utimensat), SCMP_SYS(fstatfs), SCMP_SYS(getxattr),
    SCMP_SYS(setxattr), SCMP_SYS(listxattr), SCMP_SYS(removexattr),
    // open files
    SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(pwritev2), SCMP_SYS(ftruncate), SCMP_SYS(fsync),
    SCMP_SYS(fdatasync), SCMP_SYS(lseek), SCMP_SYS(fallocate), SCMP_SYS(copy_file_range), SCMP_SYS(flock),
    // the caller's credentials
    SCMP_SYS(setfsuid), SCMP_SYS(setfsgid), SCMP_SYS(capget), SCMP_SYS(capset), SCMP_SYS(umask),
    // memory, time, the end
    SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(brk), SCMP_SYS(madvise), SCMP_SYS(futex), SCMP_SYS(clock_gettime),
    SCMP_SYS(getrandom), SCMP_SYS(restart_syscall), SCMP_SYS(rt_sigreturn), SCMP_SYS(exit_group)};
constexpr int kFcntlCommands[] = {F_DUPFD_CLOEXEC, F_SETFD, F_GETFL, F_SETFL, F_OFD_GETLK, F_OFD_SETLK};

int add_rules(scmp_filter_ctx filter) {
  int failed = 0;
  for (const int call : kCalls) failed |= ::seccomp_rule_add_exact(filter, SCMP_ACT_ALLOW, call, 0);
  for (const int command : kFcntlCommands) {
    failed |= ::seccomp_rule_add_exact(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
                                       SCMP_A1(SCMP_CMP_EQ, static_cast<scmp_datum_t>(command)));
  }
  failed |= ::seccomp_rule_add_exact(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                                     SCMP_A2(SCMP_CMP_MASKED_EQ, static_cast<scmp_datum_t>(PROT_EXEC), 0));
  failed |= ::seccomp_rule_add_exact(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                                     SCMP_A2(SCMP_CMP_MASKED_EQ, static_cast<scmp_datum_t>(PROT_EXEC), 0));
  return failed;
}
#endif

}  // namespace

Result<Limits> raise_limits() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return Error::last_os_error("read the limit of open files");
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return Error::last_os_error("raise the limit of open files");
  const rlimit no_core{0, 0};
  if (::setrlimit(RLIMIT_CORE, &no_core) != 0) return Error::last_os_error("forbid core dumps");
  if (limit.rlim_max < 4 * kOwnDescriptors) {
    return Error(Errc::kInvalidArgument, "a limit of " + std::to_string(limit.rlim_max) +
                                             " open files is too small for a file server; raise granary-spawn's");
  }
  const auto files = static_cast<size_t>(limit.rlim_max) - kOwnDescriptors;
  return Limits{.nodes = std::min(kMaxNodes, files / 4 * 3), .handles = std::min(kMaxHandles, files / 4)};
}

Status drop_privileges() {
  ::capng_clear(CAPNG_SELECT_CAPS);
  for (const KeptCapability& kept : kKeptCapabilities) {
    ::capng_update(CAPNG_ADD, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED), kept.capability);
  }
  if (::prctl(PR_SET_DUMPABLE, 0) != 0 || ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return Error::last_os_error("forbid ptrace and new privileges");
  }
  if (const int failed = ::capng_apply(CAPNG_SELECT_CAPS); failed != 0) {
    return Error(Errc::kInvalidArgument, "drop capabilities: libcap-ng says " + std::to_string(failed) +
                                             "; granary-fsd must be started by granary-spawn, as root");
  }
  return ok();
}

Status enter_filter() {
#ifndef GRANARY_SANITIZED
  const scmp_filter_ctx filter = ::seccomp_init(SCMP_ACT_KILL_PROCESS);
  const bool loaded = filter != nullptr && ::seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2) == 0 &&
                      add_rules(filter) == 0 && ::seccomp_load(filter) == 0;
  ::seccomp_release(filter);
  if (!loaded) return Error::last_os_error("load the file server's system-call filter");
  ::malloc_trim(0);  // compiling it took more memory than a small pod ever will
#endif
  return ok();
}

}  // namespace granary::fs
