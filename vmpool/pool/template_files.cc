// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/template_files.h"

#include <unistd.h>

#include <algorithm>

#include "vmpool/pool/sha256.h"

namespace granary::pool {
namespace {

constexpr size_t kChunkBytes = 1 << 20;

}  // namespace

Result<std::vector<FileExtent>> data_extents(int fd) {
  const uint64_t size = GRANARY_TRY(file_size(fd));
  std::vector<FileExtent> extents;
  uint64_t at = 0;
  while (at < size) {
    const off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return extents;
    if (data < 0) return Error::last_os_error("find data in a template's memory");
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0) return Error::last_os_error("find holes in a template's memory");
    if (extents.size() == Manifest::kMaxExtents) {
      return Error(Errc::kSnapshotCorrupt,
                   "template memory in more than " + std::to_string(extents.size()) + " pieces");
    }
    extents.push_back({static_cast<uint64_t>(data), static_cast<uint64_t>(hole - data)});
    at = static_cast<uint64_t>(hole);
  }
  return extents;
}

Result<std::string> copy_extents(int from, int to, const std::vector<FileExtent>& extents) {
  Sha256 hash;
  std::vector<std::byte> buffer(kChunkBytes);
  for (const FileExtent& extent : extents) {
    hash.update_u64(extent.offset);
    hash.update_u64(extent.bytes);
    for (uint64_t done = 0; done < extent.bytes;) {
      const auto chunk = std::span(buffer).first(std::min<uint64_t>(extent.bytes - done, kChunkBytes));
      const Status read = pread_all(from, chunk, extent.offset + done);
      if (!read && read.error().is_errno(ENODATA)) return Error(Errc::kSnapshotTruncated, "template file");
      if (!read) return read.error();
      hash.update(chunk);
      GRANARY_TRY(pwrite_all(to, chunk, extent.offset + done));
      done += chunk.size();
    }
  }
  return hash.finish();
}

}  // namespace granary::pool
