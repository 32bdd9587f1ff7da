// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "vmpool/base/control_protocol.h"

namespace granary::fs {

// The path of the export control socket of a clone's granary-fsd, from the path of the clone's vsock socket (what
// Acquire returns): "…/7.sock" -> "…/7.fsd". It exists once an fsd was started for the clone.
std::string export_socket_beside(std::string_view clone_socket);

// A name that an export can have: [a-z0-9-]{1,64}.
bool is_export_name(std::string_view name);

// One connection to a granary-fsd: adds and removes what its guest sees below the share's root. Works without any
// agent. Exports belong to the fsd, not to the connection: they stay when it is closed. One thread at a time.
//
// Errors of every call: kPeerGone once the fsd has ended; kDeadlineExceeded after 10 s without an answer, after which
// the connection is to be closed.
class ExportClient {
 public:
  // `path`: a unix socket, see above. ENOENT: no fsd was ever started; ECONNREFUSED: it has ended.
  static Result<ExportClient> connect(const std::string& path);
  // Over a socket that is connected already (what kSpawnFsd answers).
  explicit ExportClient(Fd socket) : socket_(std::move(socket)) {}

  // Shows the directory or regular file behind `fd` as /NAME of the share. `fd` (borrowed) may be O_PATH; what lies
  // below a directory is reached from it by single names, so mounts below it are seen as they are on the host: give a
  // clone of the mount (open_tree(2)) where they shall not be. `read_only`: enforced by the fsd, whatever the guest
  // thinks. kInvalidArgument: the name, or neither a directory nor a regular file; EEXIST: the name is in use; ENFILE:
  // too many exports.
  Status add(std::string_view name, int fd, bool read_only);

  // True: it is gone, with every file that the guest had open in it, so that the host can unmount; false: there was
  // none.
  Result<bool> remove(std::string_view name);

 private:
  Result<control::Message> receive_answer(uint32_t request);
  Fd socket_;
  uint32_t next_request_ = 1;
};

}  // namespace granary::fs
