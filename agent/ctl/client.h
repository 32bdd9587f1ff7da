// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "granary/v1/pool.grpc.pb.h"
#include "grpc-api/status.h"

namespace granary::ctl {

// What every command shares.
struct Globals {
  std::string socket = "/run/granary/granaryd.sock";
  bool json = false;
};

// The agent's API. Errors carry the agent's own codes.
class Client {
 public:
  // The errno of connect(2), with the socket's path and a hint, when no agent answers.
  static Result<Client> connect(const std::string& socket);

  v1::Pool::Stub& stub() { return *stub_; }

  // One plain call: `client.call(&v1::Pool::Stub::List, request)`.
  template <class Request, class Response>
  Result<Response> call(grpc::Status (v1::Pool::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                        const Request& request) {
    grpc::ClientContext context;
    Response response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    if (!status.ok()) return api::from_grpc(status);
    return response;
  }

  // The clone with this id, or with the only id that starts so. kCloneGone with the reason, kCloneUnknown.
  Result<v1::Clone> find_clone(const std::string& id);
  // After a connection to it broke: why the clone is gone, as the agent says it, which notices a moment later; ok when it seems to
  // be still there after a second.
  Status explain_loss(const std::string& id);

 private:
  explicit Client(std::unique_ptr<v1::Pool::Stub> stub) : stub_(std::move(stub)) {}
  std::unique_ptr<v1::Pool::Stub> stub_;
};

}  // namespace granary::ctl
