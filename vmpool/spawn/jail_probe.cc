// SPDX-License-Identifier: Apache-2.0
// Stands in for a granary-vmm that was taken over: started by granary-spawn like any VMM, it tries what it is told to
// and answers with the name of the errno, or "done". Orders over the control socket: "jail ATTEMPT NUMBER" with the
// jail alone around it, "setup", "loop", "vcpu" or "worker" instead of "jail" with that filter of granary-vmm on top.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "vmpool/base/message_socket.h"
#include "vmpool/base/vmm_fds.h"
#include "vmpool/vmm/seccomp.h"

namespace granary::spawn {
namespace {

constexpr size_t kPage = 4096;
constexpr long kFailed = -1;

// Each returns -1 with errno where it is kept from its aim. The number is a process or a port of the host.
using Attempt = long (*)(int);

long connect_to(int family, const sockaddr* address, socklen_t size) {
  const int socket = ::socket(family, SOCK_STREAM, 0);
  return socket < 0 ? socket : ::connect(socket, address, size);
}

long connect_inet(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return connect_to(AF_INET, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

// The test listens on "\0granary-probe-PORT" in the host's net namespace.
long connect_abstract(int port) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = "granary-probe-" + std::to_string(port);
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  return connect_to(AF_UNIX, reinterpret_cast<const sockaddr*>(&address),
                    static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size()));
}

long read_memory_of(int pid) {
  char byte = 0;
  const iovec here{.iov_base = &byte, .iov_len = 1};
  return ::process_vm_readv(pid, &here, 1, &here, 1, 0);
}

long take_descriptor_of(int pid) {
  const long process = ::syscall(SYS_pidfd_open, pid, 0);
  return process < 0 ? process : ::syscall(SYS_pidfd_getfd, process, vmm_fds::kControlSocket, 0);
}

long mount_tmpfs(int) { return ::mount("none", "/", "tmpfs", 0, nullptr); }

long open_above_the_root(int) {
  if (::chdir("../../../..") != 0) return kFailed;
  return ::open("etc/passwd", O_RDONLY);
}

long execute_memory(int) {
  void* page = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return page == MAP_FAILED ? kFailed : 0;
}

long make_memory_executable(int) {
  void* page = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return ::mprotect(page, kPage, PROT_READ | PROT_EXEC);
}

// As many processes as it gets; the limit ends it.
long fork_without_end(int) {
  for (;;) {
    const pid_t child = ::fork();
    if (child < 0) return kFailed;
    if (child == 0) {
      for (;;) ::pause();
    }
  }
}

long open_without_end(int) {
  for (;;) {
    if (::dup(STDERR_FILENO) < 0) return kFailed;
  }
}

long add_key(int) { return ::syscall(SYS_add_key, "user", "granary", "x", 1, -3 /* the session's keyring */); }

long watch_performance(int) {
  perf_event_attr attributes{};
  attributes.size = sizeof(attributes);
  attributes.type = PERF_TYPE_SOFTWARE;
  return ::syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
}

// What a terminal behind standard error would take for typing.
long type_into_terminal(int) { return ::ioctl(STDERR_FILENO, TIOCSTI, "x"); }

long crash(int) { __builtin_trap(); }

const std::map<std::string, Attempt> kAttempts = {
    {"open-host-file", [](int) { return static_cast<long>(::open("/etc/passwd", O_RDONLY)); }},
    {"open-proc", [](int) { return static_cast<long>(::open("/proc/self/status", O_RDONLY)); }},
    {"open-above-root", open_above_the_root},
    {"create-file", [](int) { return static_cast<long>(::open("/file", O_CREAT | O_WRONLY, 0600)); }},
    {"execute-file", [](int) { return static_cast<long>(::execl("/bin/sh", "sh", nullptr)); }},
    {"connect-inet", connect_inet},
    {"connect-abstract", connect_abstract},
    {"packet-socket", [](int) { return static_cast<long>(::socket(AF_PACKET, SOCK_RAW, 0)); }},
    {"signal-process", [](int pid) { return static_cast<long>(::kill(pid, 0)); }},
    {"signal-everybody", [](int) { return static_cast<long>(::kill(-1, 0)); }},
    {"ptrace", [](int pid) { return ::ptrace(PTRACE_ATTACH, pid, nullptr, nullptr); }},
    {"read-memory", read_memory_of},
    {"take-descriptor", take_descriptor_of},
    {"mount", mount_tmpfs},
    {"unmount", [](int) { return static_cast<long>(::umount2("/", MNT_DETACH)); }},
    {"chroot", [](int) { return static_cast<long>(::chroot("/")); }},
    {"set-uid", [](int) { return static_cast<long>(::setuid(0)); }},
    {"set-gid", [](int) { return static_cast<long>(::setgid(0)); }},
    {"set-hostname", [](int) { return static_cast<long>(::sethostname("x", 1)); }},
    {"unshare-net", [](int) { return static_cast<long>(::unshare(CLONE_NEWNET)); }},
    {"unshare-user", [](int) { return static_cast<long>(::unshare(CLONE_NEWUSER)); }},
    {"add-key", add_key},
    {"perf", watch_performance},
    {"type", type_into_terminal},
    {"execute-memory", execute_memory},
    {"make-executable", make_memory_executable},
    {"fork", fork_without_end},
    {"open-fds", open_without_end},
    {"crash", crash},
};

Status confine(const std::string& with) {
  using vmm::seccomp::Filter;
  static const std::map<std::string, Filter> kFilters = {
      {"setup", Filter::kSetup}, {"loop", Filter::kLoop}, {"vcpu", Filter::kVcpu}, {"worker", Filter::kWorker}};
  const auto filter = kFilters.find(with);
  return filter == kFilters.end() ? ok() : vmm::seccomp::enter(filter->second);
}

std::string try_it(const std::string& order) {
  const size_t first = order.find(' ');
  const size_t second = order.rfind(' ');
  const auto attempt = kAttempts.find(order.substr(first + 1, second - first - 1));
  if (attempt == kAttempts.end()) return "unknown attempt";
  const int number = std::atoi(order.c_str() + second);
  if (const Status confined = confine(order.substr(0, first)); !confined) return confined.error().message();
  errno = 0;
  return attempt->second(number) >= 0 ? "done" : strerrorname_np(errno);
}

int serve() {
  // As granary-vmm does, which an exec undoes.
  ::prctl(PR_SET_DUMPABLE, 0);
  const std::string born = "ready";
  if (!send_message(vmm_fds::kControlSocket, std::as_bytes(std::span(born)))) return 1;
  const Result<RawMessage> order = receive_message(vmm_fds::kControlSocket);
  if (!order) return 2;
  const std::string answer = try_it({reinterpret_cast<const char*>(order->bytes.data()), order->bytes.size()});
  // The filters of the other threads know no sendmsg(2).
  return ::write(vmm_fds::kControlSocket, answer.data(), answer.size()) < 0 ? 3 : 0;
}

}  // namespace
}  // namespace granary::spawn

int main() { return granary::spawn::serve(); }
