// SPDX-License-Identifier: Apache-2.0
#include "vmpool/spawn/control_listener.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

namespace granary::spawn {

Result<Fd> listen_control(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return Error(Errc::kInvalidArgument, "control socket path \"" + path + "\": 1 to 107 bytes are possible");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  struct stat old {};
  if (::lstat(path.c_str(), &old) == 0) {
    if (!S_ISSOCK(old.st_mode)) return Error::from_errno(EEXIST, "control socket " + path + ": not a socket");
    if (::unlink(path.c_str()) != 0) return Error::last_os_error("replace control socket " + path);
  }
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return Error::last_os_error("create the control socket");
  // On Linux the file gets the socket's own mode, cut by the umask: no moment at which others could connect.
  if (::fchmod(socket.get(), 0600) != 0 ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(socket.get(), SOMAXCONN) != 0) {
    return Error::last_os_error("listen on control socket " + path);
  }
  return socket;
}

bool peer_allowed(const Fd& socket) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == 0 || peer.uid == ::geteuid();
}

}  // namespace granary::spawn
