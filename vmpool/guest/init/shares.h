// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/result.h"

namespace granary::guest {

// Where the guest sees the exports of its file server, one entry each.
inline constexpr char kShares[] = "/run/granary/shares";

// Mounts the file system device at `folder`, making that; does nothing where it is mounted already. After the hand-over
// only: a template has no file server. The server is asked at once, so that a missing one is this call's error
// (ENOTCONN, ECONNREFUSED) and nothing stays mounted; EINVAL or ENODEV where the machine has no such device or the
// kernel no driver.
Status mount_shares(const std::string& folder = kShares);

}  // namespace granary::guest
