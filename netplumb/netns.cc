// SPDX-License-Identifier: Apache-2.0
#include "netplumb/netns.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <climits>
#include <cstdlib>

namespace granary::netplumb {
namespace {

constexpr const char* kOwn = "/proc/thread-self/ns/net";

// False where the other one cannot be looked at, for instance the first process's from a container without hostPID.
bool is_same(const struct stat& netns, const char* other) {
  struct stat info {};
  return ::stat(other, &info) == 0 && info.st_dev == netns.st_dev && info.st_ino == netns.st_ino;
}

}  // namespace

Result<Fd> open_netns(const std::string& path) {
  if (path.size() >= PATH_MAX || path.find('\0') != std::string::npos) {
    return Error(Errc::kInvalidArgument, "network namespace of " + std::to_string(path.size()) +
                                             " bytes: give a path of less than 4096, without a NUL");
  }
  const std::string what = "network namespace " + path;
  if (!path.starts_with('/')) return Error(Errc::kInvalidArgument, what + ": give an absolute path");
  // Not open_file(): what lies there may be a FIFO or a device, on which opening waits or acts.
  const Fd found(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!found.valid()) return Error::last_os_error("open " + what);
  struct statfs system {};
  if (::fstatfs(found.get(), &system) != 0) return Error::last_os_error("look at " + what);
  const Error none(Errc::kInvalidArgument, what + ": that is no network namespace; give one such as /run/netns/NAME");
  if (system.f_type != NSFS_MAGIC) return none;
  Fd netns = GRANARY_TRY(open_file("/proc/self/fd/" + std::to_string(found.get()), O_RDONLY));
  if (::ioctl(netns.get(), NS_GET_NSTYPE) != CLONE_NEWNET) return none;
  struct stat info {};
  if (::fstat(netns.get(), &info) != 0) return Error::last_os_error("look at " + what);
  if (is_same(info, kOwn) || is_same(info, "/proc/1/ns/net")) {
    return Error(Errc::kNotSupported,
                 what +
                     ": that is the host's own (hostNetwork); a microVM has a network of its own, run such "
                     "a pod with another runtime class");
  }
  return netns;
}

Status in_netns(int netns, const std::function<Status()>& action) {
  const Fd own = GRANARY_TRY(open_file(kOwn, O_RDONLY));
  if (::setns(netns, CLONE_NEWNET) != 0) {
    return Error::last_os_error("enter the network namespace (needs CAP_SYS_ADMIN, and CAP_NET_ADMIN there)");
  }
  Status done = action();
  if (::setns(own.get(), CLONE_NEWNET) != 0) std::abort();
  return done;
}

}  // namespace granary::netplumb
