// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/guest/guest.pb.h"
#include "vmpool/guest/network_check.h"

namespace granary::guest {

// For tests: an address as bytes in network byte order.
std::string ip(const char* text);
// A network with one of everything, of two links, which any kernel takes.
v1::Network sample_network();

}  // namespace granary::guest
