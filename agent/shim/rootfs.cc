// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/rootfs.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

namespace granary::shim {
namespace {

constexpr std::array<std::string_view, 5> kBlockTypes = {"ext4", "ext3", "ext2", "xfs", "erofs"};
constexpr size_t kMostOptions = 64;
constexpr size_t kMostOptionBytes = 4096;

bool is_block_type(const std::string& type) { return std::ranges::find(kBlockTypes, type) != kBlockTypes.end(); }

struct Flag {
  std::string_view name;
  unsigned long flag;
};
// mount(8)'s names for flags; every other option is the file system's.
constexpr std::array<Flag, 8> kFlags = {{{"ro", MS_RDONLY},
                                         {"rw", 0},
                                         {"bind", MS_BIND},
                                         {"rbind", MS_BIND | MS_REC},
                                         {"nosuid", MS_NOSUID},
                                         {"nodev", MS_NODEV},
                                         {"noexec", MS_NOEXEC},
                                         {"noatime", MS_NOATIME}}};

Status check_mounts(const Mounts& mounts) {
  if (mounts.empty()) return Error(Errc::kInvalidArgument, "root file system: containerd gives no mounts");
  if (mounts.size() > 1) {
    return Error(Errc::kNotSupported, "root file system of " + std::to_string(mounts.size()) +
                                          " mounts, the first of type \"" + mounts[0].type().substr(0, 32) +
                                          "\": use a snapshotter that gives one (overlayfs, blockfile, devmapper)");
  }
  if (mounts[0].options_size() > static_cast<int>(kMostOptions)) {
    return Error(Errc::kInvalidArgument,
                 "root file system: " + std::to_string(mounts[0].options_size()) + " mount options");
  }
  return ok();
}

bool is_regular(const Fd& file) {
  struct stat info {};
  return ::fstat(file.get(), &info) == 0 && S_ISREG(info.st_mode);
}

// A loop device of the file (Linux: include/uapi/linux/loop.h, LOOP_CONFIGURE since 5.8), which ends with its last
// user.
Result<Fd> loop_device_of(const Fd& file, bool read_only, std::string& path) {
  constexpr int kTries = 16;  // between asking for a free one and taking it others may have taken it
  const Fd control = GRANARY_TRY(open_file("/dev/loop-control", O_RDWR));
  loop_config config{};
  config.fd = static_cast<uint32_t>(file.get());
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0);
  for (int i = 0; i < kTries; ++i) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return Error::last_os_error("a free loop device");
    path = "/dev/loop" + std::to_string(number);
    Fd device = GRANARY_TRY(open_file(path, read_only ? O_RDONLY : O_RDWR));
    if (::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) return device;
    if (errno != EBUSY) return Error::last_os_error("make " + path + " a loop device");
  }
  return Error::from_errno(EBUSY, "a free loop device");
}

}  // namespace

bool is_block_root(const Mounts& mounts) { return mounts.size() == 1 && is_block_type(mounts[0].type()); }

Result<BlockRoot> open_block_root(const Mounts& mounts) {
  GRANARY_TRY(check_mounts(mounts));
  const containerd::task::v3::Mount& mount = mounts[0];
  BlockRoot root{.file = {}, .type = mount.type(), .options = {}, .read_only = mount.type() == "erofs"};
  for (const std::string& option : mount.options()) {
    root.read_only = root.read_only || option == "ro";
    // The guest has the disk itself, and writes to it unless it is told not to.
    if (option != "loop" && option != "ro" && option != "rw") root.options.push_back(option);
  }
  if (root.read_only) root.options.emplace_back("ro");
  root.file = GRANARY_TRY(open_file(mount.source(), root.read_only ? O_RDONLY : O_RDWR));
  struct stat info {};
  if (::fstat(root.file.get(), &info) != 0) return Error::last_os_error("look at " + mount.source());
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return Error(Errc::kInvalidArgument,
                 "root file system " + mount.source().substr(0, 256) + " is neither a file nor a block device");
  }
  return root;
}

Result<MountedRoot> MountedRoot::mount(const Mounts& mounts, const std::string& target) {
  GRANARY_TRY(check_mounts(mounts));
  const containerd::task::v3::Mount& wanted = mounts[0];
  unsigned long flags = 0;
  std::string data;
  for (const std::string& option : wanted.options()) {
    const auto* const known = std::ranges::find(kFlags, option, &Flag::name);
    if (known != kFlags.end()) {
      flags |= known->flag;
    } else if (option != "loop") {
      data += (data.empty() ? "" : ",") + option;
    }
  }
  // mount(2) takes a page and cuts off what is longer: then other layers would be mounted than those that were asked
  // for.
  if (data.size() >= kMostOptionBytes) {
    return Error(Errc::kNotSupported, "root file system: mount options of " + std::to_string(data.size()) +
                                          " bytes, at most 4095 are possible; use an image with fewer layers");
  }
  if (::mkdir(target.c_str(), 0711) != 0 && errno != EEXIST) return Error::last_os_error("make " + target);
  std::string source = wanted.source();
  Fd loop;  // until the mount holds it
  if (is_block_type(wanted.type())) {
    const BlockRoot root = GRANARY_TRY(open_block_root(mounts));
    if (root.read_only) flags |= MS_RDONLY;
    if (is_regular(root.file)) loop = GRANARY_TRY(loop_device_of(root.file, root.read_only, source));
  }
  if (::mount(source.c_str(), target.c_str(), wanted.type().c_str(), flags, data.c_str()) != 0) {
    return Error::last_os_error("mount " + wanted.type().substr(0, 32) + " " + wanted.source().substr(0, 256) +
                                " with \"" + data.substr(0, 512) + "\" as root file system");
  }
  return MountedRoot(target, (flags & MS_RDONLY) != 0);
}

MountedRoot::~MountedRoot() {
  if (target_.empty() || ::umount2(target_.c_str(), UMOUNT_NOFOLLOW) == 0) return;
  ::umount2(target_.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH);
}

}  // namespace granary::shim
