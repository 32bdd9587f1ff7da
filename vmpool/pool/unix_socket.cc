// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/unix_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <thread>

namespace granary::pool {

Result<Fd> connect_unix(const std::string& path, int type, SteadyTime deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return Error(Errc::kInvalidArgument, "socket path \"" + path + "\": 1 to 107 bytes are possible");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return Error::last_os_error("create a unix socket");
  while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == EINTR) continue;
    // A unix socket with a full backlog says EAGAIN and offers nothing to poll for.
    if (errno != EAGAIN) return Error::last_os_error("connect to " + path);
    if (SteadyClock::now() >= deadline) return Error(Errc::kDeadlineExceeded, "connect to " + path);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return socket;
}

Result<bool> wait_ready(int fd, short events, SteadyTime deadline) {
  pollfd p{.fd = fd, .events = events, .revents = 0};
  for (;;) {
    const int n = ::poll(&p, 1, poll_timeout_ms(deadline));
    if (n > 0) return true;
    if (n == 0) return false;
    if (errno != EINTR) return Error::last_os_error("poll a socket");
  }
}

}  // namespace granary::pool
