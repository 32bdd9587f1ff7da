// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/content_stamp.h"

#include <linux/magic.h>
#include <sys/statfs.h>

#include <algorithm>
#include <array>
#include <utility>

namespace granary::fs {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
// Longer than a file system's clock stands still, and than a page stays dirty (Linux: vm.dirty_expire_centisecs, 30 s,
// and vm.dirty_writeback_centisecs, 5 s): a mapping's first write to a page moves the file's time, further ones do not
// until it was written back.
constexpr int64_t kSettled = 60 * kSecond;
constexpr uint32_t kXfs = 0x58465342;  // its magic number is in no header
constexpr std::array<uint32_t, 7> kTellTheTime = {
    EXT4_SUPER_MAGIC,     kXfs,          BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC,
    EROFS_SUPER_MAGIC_V1, SQUASHFS_MAGIC};

int64_t nanoseconds(const timespec& time) { return time.tv_sec * kSecond + time.tv_nsec; }

}  // namespace

bool is_as_cached(Node& node, const Fd& file, const timespec& now) {
  const int64_t cached = std::exchange(node.cached_change_ns, 0);
  struct statfs system {};
  struct stat info {};
  if (::fstatfs(file.get(), &system) != 0 || ::fstat(file.get(), &info) != 0) return false;
  if (std::ranges::find(kTellTheTime, static_cast<uint32_t>(system.f_type)) == kTellTheTime.end()) return false;
  const int64_t changed = nanoseconds(info.st_ctim);
  if (nanoseconds(now) - changed >= kSettled) node.cached_change_ns = changed;
  return cached != 0 && cached == changed;
}

}  // namespace granary::fs
