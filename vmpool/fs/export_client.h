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

// A mount of its own, of what `fd` stands for and all that is mounted below it now (open_tree(2)): it is in no
// namespace, has no way up, no device nodes, and goes with its descriptor. Needs CAP_SYS_ADMIN and a descriptor of this
// process's mount namespace; without either, a duplicate of `fd`, which the file server then serves just as well, but
// which keeps nothing from a file server that was taken over.
Result<Fd> confined_mount(int fd, bool read_only);

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

  // Shows the directory or regular file behind `fd` (borrowed; O_PATH is enough) as /NAME of the share. What is sent is
  // not `fd` but a clone of its mount from there on (confined_mount()), so that ".." leads nowhere even in a file
  // server that was taken over. `read_only`: enforced by the fsd and by that mount, whatever the guest thinks.
  // kInvalidArgument: the name, or neither a directory nor a regular file; EEXIST: the name is in use; ENFILE: too many
  // exports.
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
