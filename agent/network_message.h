// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "netplumb/network_config.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::agent {

// What a guest is told to configure its cards with.
guest::v1::Network to_message(const netplumb::NetworkConfig& config);

}  // namespace granary::agent
