// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/rootfs.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

namespace granary::shim {
namespace {

constexpr std::array<std::string_view, 5> kBlockTypes = {"ext4", "ext3", "ext2", "xfs", "erofs"};
constexpr size_t kMostOptions = 64;

bool is_block_type(const std::string& type) { return std::ranges::find(kBlockTypes, type) != kBlockTypes.end(); }

}  // namespace

Result<BlockRoot> open_block_root(const google::protobuf::RepeatedPtrField<containerd::task::v3::Mount>& mounts) {
  if (mounts.empty()) return Error(Errc::kInvalidArgument, "root file system: containerd gives no mounts");
  const containerd::task::v3::Mount& mount = mounts[0];
  if (mounts.size() > 1 || !is_block_type(mount.type())) {
    return Error(Errc::kNotSupported,
                 "root file system of " + std::to_string(mounts.size()) + " mounts, type \"" +
                     mount.type().substr(0, 32) +
                     "\": it would need virtio-fs; use a snapshotter that gives an image file or a block "
                     "device (blockfile, devmapper)");
  }
  if (mount.options_size() > static_cast<int>(kMostOptions)) {
    return Error(Errc::kInvalidArgument,
                 "root file system: " + std::to_string(mount.options_size()) + " mount options");
  }
  BlockRoot root{.file = {}, .type = mount.type(), .options = {}, .read_only = mount.type() == "erofs"};
  for (const std::string& option : mount.options()) {
    root.read_only = root.read_only || option == "ro";
    // The guest has the disk itself, and says read-only or not below.
    if (option != "loop" && option != "ro" && option != "rw") root.options.push_back(option);
  }
  root.options.emplace_back(root.read_only ? "ro" : "rw");
  root.file = GRANARY_TRY(open_file(mount.source(), root.read_only ? O_RDONLY : O_RDWR));
  struct stat info {};
  if (::fstat(root.file.get(), &info) != 0) return Error::last_os_error("look at " + mount.source());
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return Error(Errc::kInvalidArgument,
                 "root file system " + mount.source().substr(0, 256) + " is neither a file nor a block device");
  }
  return root;
}

}  // namespace granary::shim
