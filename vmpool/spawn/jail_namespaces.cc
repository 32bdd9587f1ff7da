// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>

#include "vmpool/base/message_socket.h"
#include "vmpool/spawn/jail.h"

namespace granary::spawn {
namespace {

constexpr char kHostname[] = "granary-vmm";

// What the maker tells: all done, or which step failed.
struct Report {
  int error;
  char step[60];
};

bool step(Report& report, const char* name, long result) {
  if (result >= 0) return true;
  report.error = errno;
  std::snprintf(report.step, sizeof(report.step), "%s", name);
  return false;
}

// An empty, read-only tmpfs that is mounted nowhere yet; -1.
int empty_root() {
  const int context = ::fsopen("tmpfs", FSOPEN_CLOEXEC);
  if (context < 0) return -1;
  if (::fsconfig(context, FSCONFIG_SET_STRING, "mode", "0555", 0) != 0 ||
      ::fsconfig(context, FSCONFIG_SET_STRING, "size", "4k", 0) != 0 ||
      ::fsconfig(context, FSCONFIG_SET_FLAG, "ro", nullptr, 0) != 0 ||
      ::fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return -1;
  }
  return ::fsmount(context, FSMOUNT_CLOEXEC,
                   MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

bool make_namespaces(Report& report) {
  if (!step(report, "unshare the mount, net, ipc and uts namespaces",
            ::unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)) ||
      // Whatever is mounted from here on stays in this namespace.
      !step(report, "make the mounts private", ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr))) {
    return false;
  }
  const int root = empty_root();
  return step(report, "make an empty tmpfs", root) &&
         step(report, "mount the empty root", ::move_mount(root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH)) &&
         step(report, "enter the empty root", ::fchdir(root)) &&
         // The old root lands on top of the new one, where it is detached at once (pivot_root(2), "pivot_root(".",
         // ".")").
         step(report, "pivot_root", ::syscall(SYS_pivot_root, ".", ".")) &&
         step(report, "detach the host's tree", ::umount2(".", MNT_DETACH)) &&
         step(report, "set the jail's host name", ::sethostname(kHostname, sizeof(kHostname) - 1));
}

// Makes the namespaces, tells, and waits to be killed.
[[noreturn]] void maker_main(int socket) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  Report report{};
  (void)make_namespaces(report);
  (void)send_message(socket, std::as_bytes(std::span(&report, 1)));
  for (;;) ::pause();
}

Result<Fd> namespace_of(pid_t pid, const char* name) {
  return open_file("/proc/" + std::to_string(pid) + "/ns/" + name, O_RDONLY);
}

Result<JailNamespaces> take_from(pid_t maker, int socket) {
  const RawMessage message = GRANARY_TRY(receive_message(socket));
  Report report{};
  if (message.bytes.size() != sizeof(report)) return Error(Errc::kPeerGone, "make the jail");
  std::memcpy(&report, message.bytes.data(), sizeof(report));
  if (report.error != 0) {
    return Error::from_errno(report.error, std::string("make the jail of all VMMs: ") + report.step +
                                               " (granary-spawn must run as root with CAP_SYS_ADMIN, on a root file "
                                               "system that is not the initramfs, Linux 5.10 or newer)");
  }
  return JailNamespaces{GRANARY_TRY(namespace_of(maker, "mnt")), GRANARY_TRY(namespace_of(maker, "net")),
                        GRANARY_TRY(namespace_of(maker, "ipc")), GRANARY_TRY(namespace_of(maker, "uts"))};
}

}  // namespace

Result<JailNamespaces> JailNamespaces::create() {
  SocketPair sockets = GRANARY_TRY(create_message_socket_pair());
  const pid_t maker = ::fork();
  if (maker < 0) return Error::last_os_error("fork the maker of the jail");
  if (maker == 0) maker_main(sockets.second.get());
  sockets.second.reset();
  Result<JailNamespaces> made = take_from(maker, sockets.first.get());
  ::kill(maker, SIGKILL);
  while (::waitpid(maker, nullptr, 0) < 0 && errno == EINTR) {
  }
  return made;
}

}  // namespace granary::spawn
