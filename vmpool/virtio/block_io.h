// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "vmpool/base/result.h"

namespace granary::virtio {

enum class BlockOp { kNone, kRead, kWrite, kFlush, kDiscard, kWriteZeroes };

// One operation on a raw file, complete in itself. The segments lie in guest memory.
struct BlockJob {
  BlockOp op = BlockOp::kNone;
  int file = -1;
  uint64_t offset = 0;
  uint64_t length = 0;          // kDiscard, kWriteZeroes
  bool unmap = false;           // kWriteZeroes: may give the space back
  std::vector<iovec> segments;  // kRead, kWrite
};

// Does it; blocks. Reads beyond the end of the file give zeroes. A file system that cannot discard does nothing, one
// that cannot zero a range gets zeroes written.
Status run_block_job(BlockJob& job);

}  // namespace granary::virtio
