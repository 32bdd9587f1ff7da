// SPDX-License-Identifier: Apache-2.0
#pragma once

// Descriptors that a granary-fsd inherits from granary-spawn. There is no other way in: it takes no arguments, and its
// root is empty.
namespace granary::fsd_fds {

inline constexpr int kFuse = 3;      // stream socket whose other end is for the VMM (kAttachFs)
inline constexpr int kControl = 4;   // connected export control socket
inline constexpr int kListener = 5;  // listening export control socket
inline constexpr int kOwnFiles = 6;  // its own /proc/self/fd, O_PATH

}  // namespace granary::fsd_fds
