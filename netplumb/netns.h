// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "vmpool/base/fd.h"

namespace granary::netplumb {

// Opens a network namespace by its path (a bind mount such as /run/netns/cni-1234, or /proc/PID/ns/net).
//
// Errors, all naming the path: kInvalidArgument: not absolute, no path at all, or no network namespace; kNotSupported:
// it is the host's or the caller's own, as of a pod with hostNetwork, whose traffic never passes a guest; ENOENT and
// the like of open(2).
Result<Fd> open_netns(const std::string& path);

// Runs `action` while the calling thread is in the namespace; sockets and taps that it opens stay there, the thread
// does not: if it cannot come back, the process ends, because whatever it did next would happen in a stranger's
// network.
Status in_netns(int netns, const std::function<Status()>& action);

}  // namespace granary::netplumb
