// SPDX-License-Identifier: Apache-2.0
#include <linux/capability.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmpool/base/units.h"
#include "vmpool/spawn/jail.h"

namespace granary::spawn {
namespace {

constexpr char kNeedsRoot[] = "granary-spawn must run as root, with CAP_SYS_ADMIN and CAP_SYS_CHROOT";
constexpr char kNeedsIds[] =
    "granary-spawn needs CAP_SETUID, CAP_SETGID and CAP_SETPCAP, and a user namespace that knows its --uid-base range";
constexpr char kNoRemedy[] = "see the kernel log";

struct Limit {
  __rlimit_resource resource;
  rlim_t value;
  bool for_vmms_only = false;
};

// 1024 vsock connections, 8 vCPUs, 19 devices with two eventfds each, files of devices, descriptors in flight.
constexpr rlim_t kOpenFiles = 1280;
// One loop, one worker, 8 vCPUs, and one that newer kernels start for KVM's page recovery.
constexpr rlim_t kThreads = 16;
// The biggest file that ext4 holds: more is no disk image, and an attached image must not be grown without end.
constexpr rlim_t kFileBytes = rlim_t{16} * 1024 * kGiB;

constexpr Limit kLimits[] = {
    {RLIMIT_CORE, 0},  // guest memory must not reach a disk
    {RLIMIT_NOFILE, kOpenFiles, true},
    {RLIMIT_NPROC, kThreads, true},
    {RLIMIT_FSIZE, kFileBytes},
    {RLIMIT_MEMLOCK, 0},
    {RLIMIT_MSGQUEUE, 0},
    {RLIMIT_NICE, 0},
    {RLIMIT_RTPRIO, 0},
};

bool step(FailedStep& failed, const char* name, const char* remedy, long result) {
  if (result >= 0) return true;
  failed = {.step = name, .error = errno, .remedy = remedy};
  return false;
}

// Never raises a hard limit, which would need CAP_SYS_RESOURCE.
bool set_limits(const Jail& jail, FailedStep& failed) {
  for (const Limit& limit : kLimits) {
    if (limit.for_vmms_only && jail.kept_capabilities != 0) continue;
    rlimit now{};
    if (!step(failed, "read a resource limit", kNoRemedy, ::getrlimit(limit.resource, &now))) return false;
    const rlim_t value = std::min(limit.value, now.rlim_max);
    const rlimit wanted{.rlim_cur = value, .rlim_max = value};
    if (!step(failed, "set a resource limit", kNoRemedy, ::setrlimit(limit.resource, &wanted))) return false;
  }
  return true;
}

bool drop_bounding_set(const Jail& jail, FailedStep& failed) {
  // EINVAL: one past the last capability of this kernel.
  for (unsigned long capability = 0; ::prctl(PR_CAPBSET_READ, capability) >= 0; ++capability) {
    if ((jail.kept_capabilities >> capability & 1) != 0) continue;
    if (!step(failed, "drop a capability", kNeedsIds, ::prctl(PR_CAPBSET_DROP, capability))) return false;
  }
  return true;
}

bool drop_capabilities(const Jail& jail, FailedStep& failed) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct left[_LINUX_CAPABILITY_U32S_3] = {};
  for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; ++i) {
    left[i].effective = left[i].permitted = static_cast<uint32_t>(jail.kept_capabilities >> 32 * i);
  }
  return step(failed, "drop capabilities", kNoRemedy, ::syscall(SYS_capset, &header, left)) &&
         step(failed, "clear ambient capabilities", kNoRemedy,
              ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
}

// The threads that the VMM makes later inherit it.
bool take_core_cookie(FailedStep& failed) {
  const int made = ::prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, PR_SCHED_CORE_SCOPE_THREAD, 0);
  if (made != 0 && errno == ENODEV) return true;  // no core has two hardware threads
  return step(failed, "take a core-scheduling cookie",
              "the kernel needs CONFIG_SCHED_CORE; without it set core_scheduling: false", made);
}

}  // namespace

bool enter_jail(const Jail& jail, FailedStep& failed) {
  const JailNamespaces& in = *jail.namespaces;
  ::umask(077);
  if (jail.core_scheduling && !take_core_cookie(failed)) return false;
  return step(failed, "enter the jail's ipc namespace", kNeedsRoot, ::setns(in.ipc.get(), CLONE_NEWIPC)) &&
         step(failed, "enter the jail's uts namespace", kNeedsRoot, ::setns(in.uts.get(), CLONE_NEWUTS)) &&
         step(failed, "enter the jail's net namespace", kNeedsRoot, ::setns(in.net.get(), CLONE_NEWNET)) &&
         // Root and working directory are the empty root from here on.
         step(failed, "enter the jail's mount namespace", kNeedsRoot, ::setns(in.mount.get(), CLONE_NEWNS)) &&
         set_limits(jail, failed) && drop_bounding_set(jail, failed) &&
         step(failed, "drop supplementary groups", kNeedsIds, ::syscall(SYS_setgroups, 0, nullptr)) &&
         step(failed, "set the VMM's gid", kNeedsIds, ::syscall(SYS_setresgid, jail.uid, jail.uid, jail.uid)) &&
         step(failed, "set the VMM's uid", kNeedsIds, ::syscall(SYS_setresuid, jail.uid, jail.uid, jail.uid)) &&
         drop_capabilities(jail, failed) &&
         step(failed, "set no_new_privs", kNoRemedy, ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

}  // namespace granary::spawn
