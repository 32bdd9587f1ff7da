// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/fd.h"
#include "vmpool/pool/deadline.h"

namespace granary::pool {

// A non-blocking, connected unix socket of type `type` (SOCK_STREAM or SOCK_SEQPACKET). A full backlog is waited for
// until `deadline`. kInvalidArgument: the path is longer than the 107 bytes of a socket address; kDeadlineExceeded;
// errno of connect(2).
Result<Fd> connect_unix(const std::string& path, int type, SteadyTime deadline);

// Waits until `fd` has one of `events` (POLLIN, POLLOUT) or is hung up: true; false at the deadline.
Result<bool> wait_ready(int fd, short events, SteadyTime deadline);

}  // namespace granary::pool
