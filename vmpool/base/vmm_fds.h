// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace granary::vmm_fds {

// The descriptors that granary-spawn leaves open for granary-vmm, which gets no arguments and no environment. Standard
// error (2) takes log lines.
inline constexpr int kControlSocket = 3;  // SOCK_SEQPACKET, this VMM's end; see control_protocol.h
inline constexpr int kStatusPage = 4;     // StatusFile memfd, writable
inline constexpr int kVsockListener = 5;  // listening SOCK_STREAM unix socket of the per-clone vsock path
inline constexpr int kKvm = 6;            // /dev/kvm, read-write

}  // namespace granary::vmm_fds
