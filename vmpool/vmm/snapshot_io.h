// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/guest_memory.h"
#include "vmpool/snapshot/snapshot_format.h"

namespace granary::vmm {

// Fills two empty memfds: the state file (`state` with the extents found in memory) and the memory file.
// kInvalidArgument if one is not empty; ENOSPC and the like.
Result<control::SnapshotDone> write_snapshot(snapshot::Snapshot state, const GuestMemory& memory, int state_fd,
                                             int memory_fd);

// Reads and checks everything that can be checked before a shell is touched: seals and sizes of both files, the state
// file's content, and that the snapshot fits the shell. kInvalidArgument (not sealed), kSnapshot…;
// kSnapshotRestoreFailed names the part of the shape that differs.
Result<snapshot::Snapshot> read_snapshot(int state_fd, int memory_fd, const snapshot::Shape& shell);

}  // namespace granary::vmm
