// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/block_io.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "vmpool/base/fd.h"

namespace granary::virtio {
namespace {

constexpr size_t kMaxIovecs = 1024;  // IOV_MAX of Linux

// Cuts the transferred bytes off the list.
std::span<iovec> advance(std::span<iovec> segments, size_t bytes) {
  while (!segments.empty() && bytes >= segments.front().iov_len) {
    bytes -= segments.front().iov_len;
    segments = segments.subspan(1);
  }
  if (bytes > 0) {
    segments.front().iov_base = static_cast<std::byte*>(segments.front().iov_base) + bytes;
    segments.front().iov_len -= bytes;
  }
  return segments;
}

Status transfer(BlockJob& job) {
  const bool read = job.op == BlockOp::kRead;
  std::span<iovec> left(job.segments);
  uint64_t offset = job.offset;
  while (!left.empty()) {
    const int count = static_cast<int>(std::min(left.size(), kMaxIovecs));
    const auto at = static_cast<off_t>(offset);
    const ssize_t n = read ? ::preadv(job.file, left.data(), count, at) : ::pwritev(job.file, left.data(), count, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::last_os_error(read ? "block read" : "block write");
    if (n == 0 && !read) return Error::from_errno(ENOSPC, "block write");
    if (n == 0) break;
    offset += static_cast<uint64_t>(n);
    left = advance(left, static_cast<size_t>(n));
  }
  for (const iovec& rest : left) std::memset(rest.iov_base, 0, rest.iov_len);
  return ok();
}

bool allocate(const BlockJob& job, int mode) {
  return ::fallocate(job.file, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(job.offset),
                     static_cast<off_t>(job.length)) == 0;
}

Status discard(const BlockJob& job) {
  if (allocate(job, FALLOC_FL_PUNCH_HOLE) || errno == EOPNOTSUPP) return ok();
  return Error::last_os_error("block discard");
}

Status write_zeroes(const BlockJob& job) {
  if (job.unmap && allocate(job, FALLOC_FL_PUNCH_HOLE)) return ok();
  if (allocate(job, FALLOC_FL_ZERO_RANGE)) return ok();
  if (errno != EOPNOTSUPP) return Error::last_os_error("block write zeroes");
  static constexpr std::array<std::byte, 64 * 1024> kZeroes{};
  for (uint64_t done = 0; done < job.length;) {
    const size_t n = std::min<uint64_t>(kZeroes.size(), job.length - done);
    GRANARY_TRY(pwrite_all(job.file, std::span(kZeroes).first(n), job.offset + done));
    done += n;
  }
  return ok();
}

}  // namespace

Status run_block_job(BlockJob& job) {
  switch (job.op) {
    case BlockOp::kNone:
      return ok();
    case BlockOp::kRead:
    case BlockOp::kWrite:
      return transfer(job);
    case BlockOp::kFlush:
      return ::fdatasync(job.file) == 0 ? ok() : Status(Error::last_os_error("block flush"));
    case BlockOp::kDiscard:
      return discard(job);
    case BlockOp::kWriteZeroes:
      return write_zeroes(job);
  }
  return ok();
}

}  // namespace granary::virtio
