// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "vmpool/pool/pool.h"

namespace granary::agent {

// A file that a caller wants as a disk of its clone.
struct DiskWish {
  std::string path;
  bool read_only = false;
  friend bool operator==(const DiskWish&, const DiskWish&) = default;
};

// "no disks", or "disks /a, /b:ro"; control characters replaced, cut after some hundred bytes.
std::string to_text(const std::vector<DiskWish>& disks);

// Opens them all, in order, or none. `slots`: how many a clone takes. What a path names is looked at before it is
// opened, so that no device does anything because of it.
//
// Two clones that write to one file destroy it, so an open disk is locked (flock(2): shared when read-only, else
// exclusive) for as long as anybody, that is the clone's VMM, has the descriptor. The lock keeps out other clones and
// whoever locks as well, no other program.
//
// Errors, all of them naming the path: kInvalidArgument (more than `slots`, not absolute, a directory or anything else
// that is neither a regular file nor a block device, not a whole number of sectors of 512 bytes, empty); ENOENT,
// EACCES, EPERM, EROFS and the like of open(2); EBUSY (locked by another clone, or by this one already).
Result<std::vector<pool::Disk>> open_disks(const std::vector<DiskWish>& wishes, size_t slots);

// Checks and locks a disk that somebody else has opened. Again is fine.
Status take_disk(const pool::Disk& disk);

}  // namespace granary::agent
