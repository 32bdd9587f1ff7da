// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "vmpool/base/result.h"

namespace grpc {
class Service;
}

namespace granary::agent {

// The agent's gRPC server on a unix socket, with the standard health and reflection services.
//
// Who may connect: the socket is 0600 in a directory of its own owner, and each connection's SO_PEERCRED must be root
// or this process's user. gRPC cannot check the latter itself, so connections are accepted here and handed over as
// descriptors. Messages are at most 16 MiB, so that an Exec with far too many arguments reaches the check that names
// the limit.
class ApiServer {
 public:
  // Replaces a socket file that nobody listens on. The services outlive the server.
  static Result<std::unique_ptr<ApiServer>> start(const std::string& socket_path, std::vector<grpc::Service*> services);
  ~ApiServer();

  // Health turns to NOT_SERVING; calls still work.
  void set_not_serving();
  // No new connections; calls in progress get two seconds, then they are cancelled. Removes the socket file.
  void shutdown();

 private:
  struct Impl;
  explicit ApiServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace granary::agent
