// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/shares.h"

#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "vmpool/base/machine_layout.h"

namespace granary::guest {
namespace {

constexpr char kType[] = "virtiofs";

Status make_folder(const std::string& path) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    if (::mkdir(path.substr(0, end).c_str(), 0755) != 0 && errno != EEXIST) {
      return Error::last_os_error("create " + path.substr(0, end));
    }
    if (end == std::string::npos) return ok();
  }
}

}  // namespace

Status mount_shares(const std::string& folder) {
  struct statfs fs {};
  if (::statfs(folder.c_str(), &fs) == 0 && fs.f_type == FUSE_SUPER_MAGIC) return ok();
  GRANARY_TRY(make_folder(folder));
  if (::mount(machine::kFsTag, folder.c_str(), kType, 0, nullptr) != 0) {
    return Error::last_os_error("mount the host's files (devices: fs of the pool) at " + folder);
  }
  // The driver asks nothing before the first use.
  if (::statfs(folder.c_str(), &fs) == 0) return ok();
  const Error error = Error::last_os_error("reach the file server behind " + folder);
  ::umount2(folder.c_str(), MNT_DETACH);
  return error;
}

}  // namespace granary::guest
