// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmpool/base/result.h"
#include "vmpool/base/units.h"

namespace granary::snapshot {

// A run of guest memory that a snapshot's memory file holds: offset into the guest memory mapping and, the same number,
// into the file. Both are multiples of the page size.
struct Extent {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  friend bool operator==(const Extent&, const Extent&) = default;
};

// Each extent becomes one mmap(2) of a restore; few of them keep the restore short and the number of VMAs bounded.
inline constexpr size_t kMaxExtents = 64;

// The runs of pages that are not all zero, in order. `memory` is a whole number of pages.
std::vector<Extent> populated_extents(std::span<const std::byte> memory);

// Closes the gaps of at most kSmallGapBytes between extents: each costs a few zero pages of the template, once, where an extent
// more costs every restore an mmap(2).
inline constexpr uint64_t kSmallGapBytes = 128 * kKiB;
std::vector<Extent> close_small_gaps(const std::vector<Extent>& extents);

// Closes the smallest gaps until at most `limit` (> 0) extents are left; the order stays.
std::vector<Extent> coalesce(std::vector<Extent> extents, size_t limit = kMaxExtents);

uint64_t total_bytes(std::span<const Extent> extents);

// Writes `extents` of `memory` to the empty file `fd` at the same offsets and gives it the size of `memory`. Zero pages
// inside an extent are written too: a private write to a hole of a memfd would allocate the page in the file for good.
// Errors: kInvalidArgument if the file is not empty, otherwise errno of the write (ENOSPC …).
Status write_memory_file(int fd, std::span<const std::byte> memory, std::span<const Extent> extents);

// A file that a restore may map: a memfd of exactly `bytes` bytes, sealed against writing and every change of size,
// else kSnapshotTruncated (too short), kSnapshotCorrupt (other size) or kInvalidArgument (not sealed). `name` is for
// the message.
Status check_sealed_file(int fd, uint64_t bytes, const char* name);
// Only the seals.
Status check_seals(int fd, const char* name);

}  // namespace granary::snapshot
