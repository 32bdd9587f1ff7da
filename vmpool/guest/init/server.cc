// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/server.h"

#include <linux/vm_sockets.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "vmpool/base/log.h"

namespace granary::guest {
namespace {

Result<Fd> listen_at(int family, const sockaddr* address, socklen_t size, const std::string& name) {
  Fd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return Error::last_os_error("open a socket for " + name);
  if (::bind(socket.get(), address, size) != 0) return Error::last_os_error("bind " + name);
  if (::listen(socket.get(), SOMAXCONN) != 0) return Error::last_os_error("listen on " + name);
  return socket;
}

}  // namespace

Result<Fd> listen_vsock(uint32_t port) {
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = port;
  return listen_at(AF_VSOCK, reinterpret_cast<const sockaddr*>(&address), sizeof(address),
                   "vsock port " + std::to_string(port));
}

Result<Fd> listen_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return Error::from_errno(ENAMETOOLONG, "socket " + path);
  path.copy(address.sun_path, path.size());
  return listen_at(AF_UNIX, reinterpret_cast<const sockaddr*>(&address), sizeof(address), path);
}

Server::Server(EventLoop& loop, System& system, Fd listener, std::unique_ptr<Reaper> reaper,
               ContainerPaths container_paths)
    : loop_(loop),
      system_(system),
      listener_(std::move(listener)),
      watch_(loop),
      reaper_(std::move(reaper)),
      identity_(system),
      clock_(loop, system),
      containers_(loop, *reaper_, system, std::move(container_paths)) {}

Result<std::unique_ptr<Server>> Server::create(EventLoop& loop, System& system, Fd listener,
                                               ContainerPaths container_paths) {
  std::unique_ptr<Reaper> reaper = GRANARY_TRY(Reaper::create(loop));
  std::unique_ptr<Server> server(
      new Server(loop, system, std::move(listener), std::move(reaper), std::move(container_paths)));
  GRANARY_TRY(server->watch_listener());
  return server;
}

Status Server::watch_listener() {
  return watch_.start(listener_.get(), EPOLLIN, [this](uint32_t) { accept_one(); });
}

void Server::accept_one() {
  Fd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!connection.valid()) {
    // Out of descriptors or memory: the next conversation that ends frees some. With none there is nothing to wait for.
    const bool exhausted = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
    if (exhausted && !sessions_.empty()) watch_.stop();
    return;
  }
  const uint64_t id = next_session_++;
  Result<std::unique_ptr<Session>> session = Session::create(
      Guest{loop_, *reaper_, system_, identity_, clock_, containers_}, std::move(connection), [this, id] {
        loop_.post([this, id] {
          sessions_.erase(id);
          if (const Status s = watch_listener(); !s) {
            log_line(LogLevel::kError, "new conversations are not accepted: %s", s.error().message().c_str());
          }
        });
      });
  if (!session) {
    log_line(LogLevel::kWarn, "conversation refused: %s", session.error().message().c_str());
    return;
  }
  sessions_.emplace(id, std::move(*session));
}

}  // namespace granary::guest
