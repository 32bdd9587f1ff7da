// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ctime>

#include "vmpool/fs/node_table.h"

namespace granary::fs {

// Whether what the guest has cached of a file since its last open is still what the file has, so that this open need
// not make it read all of it again: a program that a hundred processes run would otherwise be read a hundred times, and
// taken from under those that run it already. Told by the change time, which every write(2) moves, and only where it
// does: on the file systems of disks and container images, not on tmpfs, procfs or sysfs. A time that is not 2 s old
// tells nothing yet, because the next write could leave it as it is. What a program of the host writes through a
// mapping moves the time at its first write after each writeback alone. Remembers the time in `node` for the next open.
bool is_as_cached(Node& node, const Fd& file, const timespec& now);

}  // namespace granary::fs
