// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/boot.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <sstream>

#include "vmpool/base/fd.h"
#include "vmpool/base/log.h"

namespace granary::guest {
namespace {

struct Mount {
  const char* type;
  const char* target;
  unsigned long flags;
  const char* options;
};

constexpr unsigned long kNoPrograms = MS_NOSUID | MS_NODEV | MS_NOEXEC;

constexpr Mount kMounts[] = {
    {"devtmpfs", "/dev", MS_NOSUID, "mode=755"},
    {"proc", "/proc", kNoPrograms, nullptr},
    {"sysfs", "/sys", kNoPrograms, nullptr},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666"},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755"},
    {"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"cgroup2", "/sys/fs/cgroup", kNoPrograms, nullptr},
};

// What the identity's files are written into, should the image lack it.
constexpr const char* kFolders[] = {"/etc", "/root"};

// Names that programs expect in /dev (Linux: Documentation/admin-guide/devices.rst, "Compulsory links").
constexpr const char* kLinks[][2] = {
    {"/proc/self/fd", "/dev/fd"},
    {"/proc/self/fd/0", "/dev/stdin"},
    {"/proc/self/fd/1", "/dev/stdout"},
    {"/proc/self/fd/2", "/dev/stderr"},
};

// The initial root cannot be left with pivot_root(2), which containers do: it has no parent mount. Bound over itself it
// has.
Status cover_root() {
  constexpr char kPlace[] = "/mnt";
  ::mkdir(kPlace, 0755);
  if (::mount("/", kPlace, nullptr, MS_BIND, nullptr) != 0) return Error::last_os_error("bind the root");
  if (::chdir(kPlace) != 0 || ::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0) {
    return Error::last_os_error("move the root");
  }
  if (::chroot(".") != 0 || ::chdir("/") != 0) return Error::last_os_error("enter the root");
  return ok();
}

constexpr rlim_t kOpenFiles = 1 << 20;  // Linux: the default of fs.nr_open

Status load_module(const std::string& path) {
  const Fd file = GRANARY_TRY(open_file(path, O_RDONLY));
  if (::syscall(SYS_finit_module, file.get(), "", 0) == 0 || errno == EEXIST) return ok();
  return Error::last_os_error("load " + path);
}

}  // namespace

void mount_file_systems() {
  ::umask(022);
  if (const Status covered = cover_root(); !covered) {
    log_line(LogLevel::kError, "containers cannot be made: %s", covered.error().message().c_str());
  }
  for (const char* folder : kFolders) ::mkdir(folder, 0755);
  for (const Mount& mount : kMounts) {
    ::mkdir(mount.target, 0755);
    // EBUSY: the kernel mounted it (CONFIG_DEVTMPFS_MOUNT).
    if (::mount(mount.type, mount.target, mount.type, mount.flags, mount.options) != 0 && errno != EBUSY) {
      log_line(LogLevel::kError, "mount %s: %s", mount.target, std::strerror(errno));
    }
  }
  for (const auto& [target, name] : kLinks) {
    if (::symlink(target, name) != 0 && errno != EEXIST) {
      log_line(LogLevel::kWarn, "link %s: %s", name, std::strerror(errno));
    }
  }
}

void open_standard_streams() {
  Fd input(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  Fd output(::open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC));
  if (!output.valid()) output = Fd(::open("/dev/kmsg", O_WRONLY | O_CLOEXEC));
  // Started without any descriptor, the first ones opened are among 0 to 2 and are where they belong after this.
  if (output.valid()) {
    if (output.get() <= STDERR_FILENO) output = Fd(::fcntl(output.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    ::dup2(output.get(), STDOUT_FILENO);
    ::dup2(output.get(), STDERR_FILENO);
  }
  if (input.get() > STDIN_FILENO) {
    ::dup2(input.get(), STDIN_FILENO);
  } else {
    (void)input.release();
  }
}

unsigned load_modules(const std::string& list) {
  const Result<std::string> text = read_file(list);
  if (!text) {
    if (!text.error().is_errno(ENOENT)) log_line(LogLevel::kError, "%s", text.error().message().c_str());
    return 0;
  }
  unsigned failed = 0;
  std::istringstream lines(*text);
  for (std::string path; std::getline(lines, path);) {
    if (path.empty()) continue;
    if (const Status s = load_module(path); !s) {
      log_line(LogLevel::kWarn, "%s", s.error().message().c_str());
      ++failed;
    }
  }
  return failed;
}

void set_limits_and_name() {
  const rlimit files{kOpenFiles, kOpenFiles};
  if (::setrlimit(RLIMIT_NOFILE, &files) != 0)
    log_line(LogLevel::kWarn, "raise RLIMIT_NOFILE: %s", std::strerror(errno));
  constexpr char kName[] = "granary";
  ::sethostname(kName, sizeof(kName) - 1);
}

}  // namespace granary::guest
