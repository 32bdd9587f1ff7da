// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace granary::shim {

// Where a pod's shim listens on the loopback of the pod's network namespace, and where the agent has connections to it
// go (netplumb/loopback_redirect.h). Nothing else listens in such a namespace, and only root can on a port below 1024.
inline constexpr uint16_t kRelayPort = 1;

}  // namespace granary::shim
