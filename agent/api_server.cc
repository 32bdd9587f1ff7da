// SPDX-License-Identifier: Apache-2.0
#include "agent/api_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "vmpool/base/event_loop.h"

namespace granary::agent {
namespace {

constexpr int kMaxMessageBytes = 16 * 1024 * 1024;
constexpr std::chrono::seconds kCallsGrace{2};

Result<Fd> listen_on(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return Error::from_errno(ENAMETOOLONG, "listen on " + path);
  std::memcpy(address.sun_path, path.c_str(), path.size());
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Error::last_os_error("listen on " + path);
  // Whoever listened before is gone: the state directory's lock says that there is one agent.
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return Error::last_os_error("remove old socket " + path);
  const mode_t before = ::umask(0177);
  const int bound = ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  const int number = errno;
  ::umask(before);
  if (bound != 0) return Error::from_errno(number, "listen on " + path);
  if (::listen(fd.get(), SOMAXCONN) != 0) return Error::last_os_error("listen on " + path);
  return fd;
}

bool may_connect(int socket) {
  ucred peer{};
  socklen_t length = sizeof(peer);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return false;
  if (peer.uid == 0 || peer.uid == ::geteuid()) return true;
  spdlog::warn("connection refused peer_pid={} peer_uid={}", peer.pid, peer.uid);
  return false;
}

}  // namespace

struct ApiServer::Impl {
  std::string path;
  Fd listener;
  EventFd stop;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor;
  std::unique_ptr<grpc::Server> server;
  std::jthread accepting;  // last: it uses the others

  Impl(std::string socket_path, Fd listening, EventFd stopping)
      : path(std::move(socket_path)), listener(std::move(listening)), stop(std::move(stopping)) {}

  void accept_all() {
    for (;;) {
      pollfd fds[2] = {{.fd = listener.get(), .events = POLLIN, .revents = 0},
                       {.fd = stop.get(), .events = POLLIN, .revents = 0}};
      ::poll(fds, 2, -1);
      if (fds[1].revents != 0) return;
      Fd connection(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!connection.valid()) {
        wait_for_descriptors(errno);
        continue;
      }
      if (!may_connect(connection.get())) continue;
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
      parameters.listener_fd = listener.get();
      parameters.fd = connection.release();
      acceptor->HandleNewConnection(&parameters);
    }
  }

  // Out of descriptors: the connection stays in the backlog, and trying again at once would burn a core.
  void wait_for_descriptors(int number) const {
    if (number != EMFILE && number != ENFILE && number != ENOMEM && number != ENOBUFS) return;
    spdlog::error("accept failed error=\"{}\"", std::strerror(number));
    pollfd only_stop{.fd = stop.get(), .events = POLLIN, .revents = 0};
    ::poll(&only_stop, 1, 100);
  }
};

ApiServer::ApiServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<ApiServer>> ApiServer::start(const std::string& socket_path,
                                                    std::vector<grpc::Service*> services) {
  auto impl = std::make_unique<Impl>(socket_path, GRANARY_TRY(listen_on(socket_path)), GRANARY_TRY(EventFd::create()));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  for (grpc::Service* service : services) builder.RegisterService(service);
  impl->acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, grpc::InsecureServerCredentials());
  impl->server = builder.BuildAndStart();
  if (!impl->server) return Error::from_errno(EIO, "start the gRPC server on " + socket_path);
  impl->server->GetHealthCheckService()->SetServingStatus(true);
  impl->accepting = std::jthread([raw = impl.get()] { raw->accept_all(); });
  return std::unique_ptr<ApiServer>(new ApiServer(std::move(impl)));
}

ApiServer::~ApiServer() { shutdown(); }

void ApiServer::set_not_serving() { impl_->server->GetHealthCheckService()->SetServingStatus(false); }

void ApiServer::shutdown() {
  if (!impl_->server) return;
  impl_->stop.signal();
  impl_->accepting.join();
  impl_->listener.reset();
  ::unlink(impl_->path.c_str());
  impl_->server->Shutdown(std::chrono::system_clock::now() + kCallsGrace);
  impl_->server->Wait();
  impl_->server.reset();
}

}  // namespace granary::agent
