// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/rootfs.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "vmpool/base/fd.h"

namespace granary::guest {
namespace {

constexpr useconds_t kPauseUs = 5'000;
constexpr int kDiskTries = 6'000;     // 30 s
constexpr int kUnmountTries = 1'000;  // 5 s

struct Flag {
  const char* name;
  unsigned long flag;
};
// mount(8)'s names for flags; every other option is the file system's.
constexpr Flag kFlags[] = {
    {"ro", MS_RDONLY},        {"nosuid", MS_NOSUID},         {"nodev", MS_NODEV},       {"noexec", MS_NOEXEC},
    {"noatime", MS_NOATIME},  {"nodiratime", MS_NODIRATIME}, {"relatime", MS_RELATIME}, {"strictatime", MS_STRICTATIME},
    {"sync", MS_SYNCHRONOUS}, {"dirsync", MS_DIRSYNC},       {"lazytime", MS_LAZYTIME}, {"rw", 0},
    {"defaults", 0}};

std::string line_of(const std::string& file) {
  Result<std::string> text = read_file(file);
  if (!text) return {};
  while (!text->empty() && text->back() == '\n') text->pop_back();
  return *std::move(text);
}

// The name of the disk with that serial number; empty if there is none.
std::string disk_of(const std::string& serial, const std::string& disks) {
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(disks, code)) {
    if (line_of(entry.path().string() + "/serial") == serial) return entry.path().filename().string();
  }
  return {};
}

Result<std::string> await_disk(uint32_t number, const std::string& disks) {
  // As the VMM names them (vmpool/vmm/devices.cc).
  const std::string serial = "granary-block" + std::to_string(number);
  const std::string name = disk_of(serial, disks);
  if (name.empty()) return Error::from_errno(ENOENT, "disk " + serial + " of this machine");
  for (int i = 0; i < kDiskTries; ++i) {
    if (const std::string size = line_of(disks + "/" + name + "/size"); !size.empty() && size != "0") {
      return "/dev/" + name;
    }
    ::usleep(kPauseUs);
  }
  return Error::from_errno(ETIMEDOUT, "wait for the file of disk " + serial);
}

Status mount_disk(const v1::BlockRootfs& block, const std::string& target, const std::string& disks) {
  unsigned long flags = 0;
  std::string data;
  for (const std::string& option : block.options()) {
    const auto* known =
        std::find_if(std::begin(kFlags), std::end(kFlags), [&option](const Flag& flag) { return option == flag.name; });
    if (known != std::end(kFlags)) {
      flags |= known->flag;
    } else {
      data += (data.empty() ? "" : ",") + option;
    }
  }
  const std::string device = GRANARY_TRY(await_disk(block.disk(), disks));
  if (::mount(device.c_str(), target.c_str(), block.type().c_str(), flags, data.c_str()) == 0) return ok();
  return Error::last_os_error("mount " + device + " as " + block.type() + " with options \"" + data + "\"");
}

Status bind_directory(const std::string& directory, const std::string& target) {
  struct stat st {};
  if (::stat(directory.c_str(), &st) != 0) return Error::last_os_error("rootfs " + directory);
  if (!S_ISDIR(st.st_mode)) return Error::from_errno(ENOTDIR, "rootfs " + directory);
  if (::mount(directory.c_str(), target.c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0) return ok();
  return Error::last_os_error("bind rootfs " + directory);
}

}  // namespace

Status check_rootfs(const v1::Rootfs& rootfs) {
  const auto invalid = [](const std::string& what) { return Status(Error(Errc::kInvalidArgument, "rootfs: " + what)); };
  const auto has_nul = [](const std::string& text) { return text.find('\0') != std::string::npos; };
  if (rootfs.kind_case() == v1::Rootfs::kDirectory) {
    if (!rootfs.directory().starts_with('/')) return invalid("directory is no absolute path");
    return has_nul(rootfs.directory()) ? invalid("directory holds a NUL byte") : ok();
  }
  if (rootfs.kind_case() != v1::Rootfs::kBlock) return invalid("neither a directory nor a disk");
  if (rootfs.block().type().empty() || has_nul(rootfs.block().type())) return invalid("no file system type");
  for (const std::string& option : rootfs.block().options()) {
    if (has_nul(option)) return invalid("an option holds a NUL byte");
  }
  return ok();
}

Status mount_rootfs(const v1::Rootfs& rootfs, const std::string& target, const std::string& disks) {
  if (rootfs.has_block()) return mount_disk(rootfs.block(), target, disks);
  return bind_directory(rootfs.directory(), target);
}

Status unmount_rootfs(const std::string& target) {
  for (int i = 0; i < kUnmountTries; ++i) {
    if (::umount2(target.c_str(), UMOUNT_NOFOLLOW) == 0) return ok();
    // Never mounted, or not even made.
    if (errno == EINVAL || errno == ENOENT) return ok();
    if (errno != EBUSY) break;
    ::usleep(kPauseUs);
  }
  if (::umount2(target.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH) == 0) return ok();
  return Error::last_os_error("unmount " + target);
}

}  // namespace granary::guest
