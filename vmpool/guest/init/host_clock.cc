// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/host_clock.h"

#include <linux/vm_sockets.h>
#include <sys/socket.h>

#include <chrono>

#include "vmpool/base/fd.h"
#include "vmpool/base/machine_layout.h"

namespace granary::guest {
namespace {

using Clock = std::chrono::steady_clock;

// The answer comes within microseconds unless somebody else has the CPU; the quickest of some tries is the truest. What
// is known is off by at most half of the time that it took.
constexpr int kTries = 3;
constexpr std::chrono::milliseconds kQuick{20};
constexpr timeval kPatience{.tv_sec = 1, .tv_usec = 0};

Result<int64_t> ask_once() {
  const Fd socket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return Error::last_os_error("open a socket for the host's clock");
  ::setsockopt(socket.get(), AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &kPatience, sizeof(kPatience));
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof(kPatience));
  sockaddr_vm host{};
  host.svm_family = AF_VSOCK;
  host.svm_cid = VMADDR_CID_HOST;
  host.svm_port = machine::kClockVsockPort;
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&host), sizeof(host)) != 0) {
    return Error::last_os_error("connect to the host's clock");
  }
  int64_t told_ns = 0;
  const ssize_t n = ::recv(socket.get(), &told_ns, sizeof(told_ns), MSG_WAITALL);
  if (n < 0) return Error::last_os_error("read the host's clock");
  if (n != sizeof(told_ns)) return Error(Errc::kPeerGone, "read the host's clock");
  return told_ns;
}

}  // namespace

Result<int64_t> read_host_clock() {
  int64_t best_ns = 0;  // the host's clock minus ours
  Clock::duration quickest = Clock::duration::max();
  for (int i = 0; i < kTries && quickest > kQuick; ++i) {
    const Clock::time_point asked = Clock::now();
    const int64_t told_ns = GRANARY_TRY(ask_once());
    const Clock::duration took = Clock::now() - asked;
    if (took >= quickest) continue;
    quickest = took;
    best_ns = told_ns - std::chrono::nanoseconds((asked + took / 2).time_since_epoch()).count();
  }
  return best_ns + std::chrono::nanoseconds(Clock::now().time_since_epoch()).count();
}

}  // namespace granary::guest
