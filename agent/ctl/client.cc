// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <sys/socket.h>

#include <chrono>
#include <thread>

#include "vmpool/pool/unix_socket.h"

namespace granary::ctl {
namespace {

constexpr std::chrono::seconds kConnectLimit{5};

}  // namespace

Result<Client> Client::connect(const std::string& socket) {
  // gRPC's own message for a missing socket names neither errno nor remedy.
  const auto probe = pool::connect_unix(socket, SOCK_STREAM, std::chrono::steady_clock::now() + kConnectLimit);
  if (!probe) return Error(probe.error().code(), "agent at " + socket + " (is granaryd running? see --socket)");
  const auto channel = grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials());
  return Client(v1::Pool::NewStub(channel));
}

Result<v1::Clone> Client::find_clone(const std::string& id) {
  const v1::ListResponse list = GRANARY_TRY(call(&v1::Pool::Stub::List, v1::ListRequest()));
  const v1::Clone* found = nullptr;
  for (const v1::Clone& clone : list.clones()) {
    if (clone.id() == id) return clone;
    if (id.empty() || !clone.id().starts_with(id)) continue;
    if (found != nullptr)
      return Error(Errc::kInvalidArgument, "clone " + id + ": more than one starts so; give more of it");
    found = &clone;
  }
  if (found != nullptr) return *found;
  // The agent knows why a clone is gone; any call about it says so.
  v1::ConsoleRequest request;
  request.set_clone_id(id);
  GRANARY_TRY(call(&v1::Pool::Stub::Console, request));
  return Error(Errc::kCloneUnknown, "clone " + id);
}

Status Client::explain_loss(const std::string& id) {
  constexpr int kLooks = 100;
  constexpr std::chrono::milliseconds kPause{10};
  for (int look = 0; look < kLooks; ++look) {
    GRANARY_TRY(find_clone(id));
    std::this_thread::sleep_for(kPause);
  }
  return ok();
}

}  // namespace granary::ctl
