// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "vmpool/fs/export_client.h"

namespace granary::shim {

// What a pod's guest sees of the host's files: exports of its granary-fsd, each under a name of its own. Needs no agent.
// Connects when it is first asked. One thread.
class Shares {
 public:
  // `clone_socket`: of the clone; the file server's lies beside it.
  explicit Shares(const std::string& clone_socket) : socket_(fs::export_socket_beside(clone_socket)) {}

  // Exports a directory or regular file (links are followed) and gives its name. Errors name the path: of open(2);
  // kNotSupported: the clone has no file server; those of ExportClient::add().
  Result<std::string> add(const std::string& host_path, bool read_only);
  // Nothing of it is open any more afterwards; fine also when the file server has gone. kDeadlineExceeded: it does not
  // answer, and what is left of the exports goes with the clone.
  Status remove(const std::string& name);
  static std::string path_in_guest(const std::string& name) { return "/run/granary/shares/" + name; }

 private:
  Result<fs::ExportClient*> connected();
  // A connection on which an answer is missing is of no more use: a late one would be taken for the next.
  void drop_if_out_of_step(const Error& error);

  std::string socket_;
  std::optional<fs::ExportClient> client_;
  uint64_t next_ = 1;
};

}  // namespace granary::shim
