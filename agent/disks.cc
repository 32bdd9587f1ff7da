// SPDX-License-Identifier: Apache-2.0
#include "agent/disks.h"

#include <fcntl.h>
#include <linux/limits.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace granary::agent {
namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr size_t kMaxTextBytes = 400;

std::string shown(const DiskWish& wish) {
  std::string text = wish.path.substr(0, kMaxTextBytes);
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text + (wish.read_only ? ":ro" : "");
}

Error invalid(const DiskWish& wish, const std::string& why) {
  return {Errc::kInvalidArgument, "disk " + shown(wish) + ": " + why};
}

Status check_path(const DiskWish& wish) {
  if (wish.path.empty() || wish.path.front() != '/') return invalid(wish, "give an absolute path");
  if (wish.path.size() >= PATH_MAX || wish.path.find('\0') != std::string::npos) {
    return invalid(wish,
                   "path of " + std::to_string(wish.path.size()) + " bytes: give at most 4095, none of them zero");
  }
  return ok();
}

Status check_kind(const DiskWish& wish, mode_t mode) {
  if (S_ISREG(mode) || S_ISBLK(mode)) return ok();
  return invalid(wish, std::string(S_ISDIR(mode) ? "a directory" : "neither a regular file nor a block device") +
                           "; give an image file or a block device");
}

Status check_size(const DiskWish& wish, int fd) {
  const off_t bytes = ::lseek(fd, 0, SEEK_END);  // block devices, too
  if (bytes < 0) return Error::last_os_error("size of disk " + shown(wish));
  if (bytes > 0 && static_cast<uint64_t>(bytes) % kSectorBytes == 0) return ok();
  return invalid(wish, std::to_string(bytes) + " bytes; make it a multiple of 512, for instance with truncate -s %512");
}

Status lock(const DiskWish& wish, int fd) {
  if (::flock(fd, (wish.read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return ok();
  const std::string what = "disk " + shown(wish);
  if (errno != EWOULDBLOCK) return Error::last_os_error("lock " + what);
  return Error::from_errno(EBUSY, what + " is in use; one clone may write to it, or several may read it");
}

Result<pool::Disk> open_disk(const DiskWish& wish) {
  GRANARY_TRY(check_path(wish));
  const std::string what = "disk " + shown(wish);
  const Fd found(::open(wish.path.c_str(), O_PATH | O_CLOEXEC));
  struct stat st {};
  if (!found.valid() || ::fstat(found.get(), &st) != 0) return Error::last_os_error(what);
  GRANARY_TRY(check_kind(wish, st.st_mode));
  // The same file, whatever the path names by now.
  const std::string same = "/proc/self/fd/" + std::to_string(found.get());
  Fd file(::open(same.c_str(), (wish.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!file.valid()) return Error::last_os_error(what + (wish.read_only ? "" : " (append :ro to only read it)"));
  GRANARY_TRY(check_size(wish, file.get()));
  GRANARY_TRY(lock(wish, file.get()));
  return pool::Disk{.file = std::move(file), .read_only = wish.read_only};
}

}  // namespace

Status take_disk(const pool::Disk& disk) {
  const DiskWish named{.path = "that came with the call", .read_only = disk.read_only};
  struct stat st {};
  if (::fstat(disk.file.get(), &st) != 0) return Error::last_os_error("look at a disk");
  GRANARY_TRY(check_kind(named, st.st_mode));
  GRANARY_TRY(check_size(named, disk.file.get()));
  return lock(named, disk.file.get());
}

std::string to_text(const std::vector<DiskWish>& disks) {
  if (disks.empty()) return "no disks";
  std::string text = "disks ";
  for (const DiskWish& disk : disks) {
    if (text.size() > kMaxTextBytes) return text + ", …";
    text += (&disk == &disks.front() ? "" : ", ") + shown(disk);
  }
  return text;
}

Result<std::vector<pool::Disk>> open_disks(const std::vector<DiskWish>& wishes, size_t slots) {
  if (wishes.size() > slots) {
    return Error(Errc::kInvalidArgument, std::to_string(wishes.size()) + " disks, but the pool's clones have " +
                                             std::to_string(slots) +
                                             " slots; give fewer or raise `devices.block` of the pool");
  }
  std::vector<pool::Disk> disks;
  for (const DiskWish& wish : wishes) disks.push_back(GRANARY_TRY(open_disk(wish)));
  return disks;
}

}  // namespace granary::agent
