// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmpool/base/result.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::guest {

// Whether a guest could be given this network at all: sizes, ranges, families and names, not what its kernel will say.
// Asked on the host before a clone is taken, and in the guest before anything is changed. kInvalidArgument naming the
// item, its value and what is allowed.
Status check_network(const v1::Network& network);

}  // namespace granary::guest
