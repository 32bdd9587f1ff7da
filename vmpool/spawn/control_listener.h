// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/fd.h"

namespace granary::spawn {

// A listening SOCK_SEQPACKET socket at `path` (at most 107 bytes), mode 0600, non-blocking. A socket file that is there
// already is replaced: the caller holds the run directory, so its owner is dead.
Result<Fd> listen_control(const std::string& path);

// True if the peer is root or has this process's uid.
bool peer_allowed(const Fd& socket);

}  // namespace granary::spawn
