// SPDX-License-Identifier: Apache-2.0
#define FUSE_USE_VERSION 312
#include "tests/soak/slow_disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <fuse.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <vector>

#include "vmpool/base/fd.h"

namespace granary::soak {
namespace {

constexpr int kMountLimitMs = 10'000;

// Of the server's process.
int backing = -1;  // the folder under the mount
const std::atomic<int64_t>* delay_ms = nullptr;

void take_time() { ::poll(nullptr, 0, static_cast<int>(delay_ms->load())); }
const char* below(const char* path) { return path[1] == '\0' ? "." : path + 1; }
int result(long value) { return value < 0 ? -errno : static_cast<int>(value); }
int file(const fuse_file_info* info) { return static_cast<int>(info->fh); }

int get_attributes(const char* path, struct stat* out, fuse_file_info* info) {
  if (info != nullptr) return result(::fstat(file(info), out));
  return result(::fstatat(backing, below(path), out, AT_SYMLINK_NOFOLLOW));
}

int read_folder(const char* path, void* to, fuse_fill_dir_t fill, off_t, fuse_file_info*, fuse_readdir_flags) {
  DIR* const folder = ::fdopendir(::openat(backing, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder == nullptr) return -errno;
  while (const dirent* entry = ::readdir(folder)) fill(to, entry->d_name, nullptr, 0, fuse_fill_dir_flags{});
  ::closedir(folder);
  return 0;
}

int open_file_of(const char* path, mode_t mode, fuse_file_info* info) {
  const int fd = ::openat(backing, below(path), info->flags | O_CLOEXEC, mode);
  info->fh = static_cast<uint64_t>(fd);
  return fd < 0 ? -errno : 0;
}

fuse_operations operations() {
  fuse_operations to{};
  to.getattr = get_attributes;
  to.readdir = read_folder;
  to.mkdir = [](const char* path, mode_t mode) { return result(::mkdirat(backing, below(path), mode)); };
  to.unlink = [](const char* path) { return result(::unlinkat(backing, below(path), 0)); };
  to.rmdir = [](const char* path) { return result(::unlinkat(backing, below(path), AT_REMOVEDIR)); };
  to.rename = [](const char* from, const char* path, unsigned flags) {
    return result(::renameat2(backing, below(from), backing, below(path), flags));
  };
  to.chmod = [](const char* path, mode_t mode, fuse_file_info*) {
    return result(::fchmodat(backing, below(path), mode, 0));
  };
  to.truncate = [](const char* path, off_t size, fuse_file_info* info) {
    if (info != nullptr) return result(::ftruncate(file(info), size));
    const Fd opened(::openat(backing, below(path), O_WRONLY | O_CLOEXEC));
    return result(opened.valid() ? ::ftruncate(opened.get(), size) : -1);
  };
  to.open = [](const char* path, fuse_file_info* info) { return open_file_of(path, 0, info); };
  to.create = [](const char* path, mode_t mode, fuse_file_info* info) { return open_file_of(path, mode, info); };
  to.read = [](const char*, char* data, size_t bytes, off_t at, fuse_file_info* info) {
    take_time();
    return result(::pread(file(info), data, bytes, at));
  };
  to.write = [](const char*, const char* data, size_t bytes, off_t at, fuse_file_info* info) {
    take_time();
    return result(::pwrite(file(info), data, bytes, at));
  };
  to.fsync = [](const char*, int, fuse_file_info* info) {
    take_time();
    return result(::fsync(file(info)));
  };
  to.lseek = [](const char*, off_t at, int whence, fuse_file_info* info) -> off_t {
    const off_t found = ::lseek(file(info), at, whence);
    return found < 0 ? -errno : found;
  };
  to.release = [](const char*, fuse_file_info* info) { return result(::close(file(info))); };
  to.statfs = [](const char*, struct statvfs* out) { return result(::fstatvfs(backing, out)); };
  return to;
}

[[noreturn]] void serve(const std::string& folder) {
  const fuse_operations table = operations();
  char name[] = "granary-slow-disk";
  char option[] = "-odev,suid,allow_other";
  char* words[] = {name, option, nullptr};
  fuse_args args = FUSE_ARGS_INIT(2, words);
  fuse* const session = ::fuse_new(&args, &table, sizeof(table), nullptr);
  if (session == nullptr || ::fuse_mount(session, folder.c_str()) != 0) ::_exit(1);
  ::_exit(::fuse_loop(session) == 0 ? 0 : 1);
}

bool is_mount_point(const std::string& folder) {
  struct stat inside {};
  struct stat above {};
  return ::stat(folder.c_str(), &inside) == 0 && ::stat((folder + "/..").c_str(), &above) == 0 &&
         inside.st_dev != above.st_dev;
}

}  // namespace

Result<std::unique_ptr<SlowDisk>> SlowDisk::mount(const std::string& folder) {
  std::unique_ptr<SlowDisk> disk(new SlowDisk(folder));
  void* const shared = ::mmap(nullptr, sizeof(*disk->delay_ms_), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return Error::last_os_error("mmap");
  disk->delay_ms_ = new (shared) std::atomic<int64_t>(0);
  const Fd under = GRANARY_TRY(open_file(folder, O_PATH | O_DIRECTORY));
  GRANARY_TRY(open_file("/dev/fuse", O_RDWR));
  disk->server_ = ::fork();
  if (disk->server_ < 0) return Error::last_os_error("fork");
  if (disk->server_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    backing = under.get();
    delay_ms = disk->delay_ms_;
    serve(folder);
  }
  for (int waited_ms = 0; waited_ms < kMountLimitMs; ++waited_ms) {
    if (is_mount_point(folder)) return disk;
    if (::waitpid(disk->server_, nullptr, WNOHANG) == disk->server_) {
      disk->server_ = -1;
      return Error::from_errno(EPERM, "mount a FUSE file system");
    }
    ::poll(nullptr, 0, 1);
  }
  return Error(Errc::kDeadlineExceeded, "mount a FUSE file system");
}

SlowDisk::~SlowDisk() {
  if (server_ > 0) {
    ::umount2(folder_.c_str(), MNT_DETACH);
    ::kill(server_, SIGKILL);
    ::waitpid(server_, nullptr, 0);
  }
  if (delay_ms_ != nullptr) ::munmap(delay_ms_, sizeof(*delay_ms_));
}

void SlowDisk::set_delay(std::chrono::milliseconds delay) { *delay_ms_ = delay.count(); }

}  // namespace granary::soak
