// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "vmpool/base/fd.h"
#include "vmpool/pool/template_manifest.h"

namespace granary::pool {

// Copying a template between memfds and files, hashing on the way. Only populated runs are read and written: a template
// of 256 MiB costs its populated bytes in time and in blocks on disk.

// The data runs of a sparse file (SEEK_DATA, SEEK_HOLE), at most Manifest::kMaxExtents.
Result<std::vector<FileExtent>> data_extents(int fd);

// Copies `extents` of `from` to the same offsets of `to`, and returns the SHA-256 over (offset, bytes, content) of
// each. A `from` that ends inside an extent is kSnapshotTruncated.
Result<std::string> copy_extents(int from, int to, const std::vector<FileExtent>& extents);

}  // namespace granary::pool
