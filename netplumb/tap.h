// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/fd.h"

namespace granary::netplumb {

// A persistent tap (tuntap.rst: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, non-blocking) in the calling thread's network
// namespace: it outlives the descriptor, so that closing that in a process's exit costs nothing.
//
// Errors, naming the tap and a remedy: ENOENT, EACCES: /dev/net/tun; EPERM: no CAP_NET_ADMIN; EBUSY: a process has it
// open; EINVAL: the name is another interface's; ENOSPC, ENOMEM, EMFILE, ENFILE: no room. kInvalidArgument: a name
// that is too long.
Result<Fd> make_tap(const std::string& name);

}  // namespace granary::netplumb
