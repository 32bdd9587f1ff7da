// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/pod.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>

#include "vmpool/base/fd.h"
#include "vmpool/base/units.h"
#include "vmpool/guest/init/cgroup.h"
#include "vmpool/guest/init/shares.h"

namespace granary::guest {
namespace {

constexpr uint64_t kDefaultShmBytes = 64 * kMiB;

Status make_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) == 0 || errno == EEXIST) return ok();
  return Error::last_os_error("make " + path);
}

// The same file, not a new one in its place: it is mounted in containers.
Status write_file(const std::string& path, const std::string& text) {
  const Fd fd = GRANARY_TRY(open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  return write_all(fd.get(), std::as_bytes(std::span(text)));
}

Status mount_shm(const std::string& path, uint64_t bytes) {
  GRANARY_TRY(make_folder(path));
  const std::string options = "mode=1777,size=" + std::to_string(bytes == 0 ? kDefaultShmBytes : bytes);
  constexpr unsigned long kFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  // Of a later request: it is mounted already.
  if (::mount(nullptr, path.c_str(), nullptr, MS_REMOUNT | kFlags, options.c_str()) == 0) return ok();
  if (::mount("shm", path.c_str(), "tmpfs", kFlags, options.c_str()) == 0) return ok();
  return Error::last_os_error("mount " + path + " with " + options);
}

// Without a file server, its device or its driver there are still containers whose root is a disk; one that needs a share
// says that it is not there.
Status mount_shares_if_any(const std::string& folder) {
  const Status mounted = mount_shares(folder);
  if (mounted) return ok();
  for (const int none : {ENOTCONN, ECONNREFUSED, EINVAL, ENODEV}) {
    if (mounted.error().is_errno(none)) return ok();
  }
  return mounted;
}

Status write_sysctl(const v1::Sysctl& sysctl, const std::string& root) {
  std::string path = sysctl.name();
  std::replace(path.begin(), path.end(), '.', '/');
  Result<Fd> file = open_file(root + "/" + path, O_WRONLY);
  if (file && ::write(file->get(), sysctl.value().data(), sysctl.value().size()) >= 0) return ok();
  return Error::last_os_error("sysctl " + sysctl.name() + "=" + sysctl.value());
}

}  // namespace

Status check_pod(const v1::Pod& pod) {
  for (const v1::Sysctl& sysctl : pod.sysctls()) {
    const std::string& name = sysctl.name();
    const bool good = std::all_of(name.begin(), name.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
    });
    if (!good || name.empty() || name.front() == '.' || name.find("..") != std::string::npos) {
      return Error(Errc::kInvalidArgument, "sysctl \"" + name.substr(0, 128) + "\" is no name of one");
    }
  }
  return ok();
}

Status apply_pod(const v1::Pod& pod, const ContainerPaths& paths) {
  GRANARY_TRY(make_folder(paths.run));
  GRANARY_TRY(mount_shares_if_any(paths.shares()));
  GRANARY_TRY(make_folder(paths.pod()));
  GRANARY_TRY(write_file(paths.pod() + "/hosts", pod.hosts()));
  GRANARY_TRY(write_file(paths.pod() + "/hostname", pod.hostname()));
  GRANARY_TRY(write_file(paths.pod() + "/resolv.conf", pod.resolv_conf()));
  GRANARY_TRY(mount_shm(paths.pod() + "/shm", pod.shm_bytes()));
  GRANARY_TRY(cgroup::make(paths.pod_cgroup()));
  GRANARY_TRY(cgroup::set_limits(paths.pod_cgroup(), pod.limits()));
  for (const v1::Sysctl& sysctl : pod.sysctls()) GRANARY_TRY(write_sysctl(sysctl, paths.sysctls));
  return ok();
}

}  // namespace granary::guest
