// SPDX-License-Identifier: Apache-2.0
#include "vmpool/snapshot/memory_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "vmpool/base/fd.h"
#include "vmpool/base/units.h"

namespace granary::snapshot {
namespace {

// One block is short enough to leave a populated page early and long enough for the compiler to use vector registers.
constexpr size_t kBlockBytes = 512;

bool is_zero_block(const std::byte* at) {
  uint64_t any = 0;
  for (size_t i = 0; i < kBlockBytes; i += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, at + i, sizeof(word));
    any |= word;
  }
  return any == 0;
}

bool is_zero_page(const std::byte* page) {
  for (size_t at = 0; at < kPageSize; at += kBlockBytes) {
    if (!is_zero_block(page + at)) return false;
  }
  return true;
}

}  // namespace

std::vector<Extent> populated_extents(std::span<const std::byte> memory) {
  std::vector<Extent> extents;
  for (uint64_t at = 0; at + kPageSize <= memory.size(); at += kPageSize) {
    if (is_zero_page(memory.data() + at)) continue;
    if (!extents.empty() && extents.back().offset + extents.back().bytes == at) {
      extents.back().bytes += kPageSize;
    } else {
      extents.push_back({at, kPageSize});
    }
  }
  return extents;
}

std::vector<Extent> close_small_gaps(const std::vector<Extent>& extents) {
  std::vector<Extent> merged;
  for (const Extent& extent : extents) {
    if (!merged.empty() && extent.offset - (merged.back().offset + merged.back().bytes) <= kSmallGapBytes) {
      merged.back().bytes = extent.offset + extent.bytes - merged.back().offset;
    } else {
      merged.push_back(extent);
    }
  }
  return merged;
}

std::vector<Extent> coalesce(std::vector<Extent> extents, size_t limit) {
  if (limit == 0 || extents.size() <= limit) return extents;
  const auto gap_before = [&](size_t i) { return extents[i].offset - (extents[i - 1].offset + extents[i - 1].bytes); };
  // The extents before which a gap stays: those with the `limit - 1` widest gaps.
  std::vector<size_t> order(extents.size() - 1);
  std::iota(order.begin(), order.end(), 1);
  const auto keep_end = order.begin() + static_cast<std::ptrdiff_t>(limit - 1);
  std::nth_element(order.begin(), keep_end, order.end(),
                   [&](size_t a, size_t b) { return gap_before(a) > gap_before(b); });
  std::sort(order.begin(), keep_end);

  std::vector<Extent> merged = {extents.front()};
  auto next_kept = order.begin();
  for (size_t i = 1; i < extents.size(); ++i) {
    if (next_kept != keep_end && *next_kept == i) {
      ++next_kept;
      merged.push_back(extents[i]);
    } else {
      merged.back().bytes = extents[i].offset + extents[i].bytes - merged.back().offset;
    }
  }
  return merged;
}

uint64_t total_bytes(std::span<const Extent> extents) {
  return std::accumulate(extents.begin(), extents.end(), uint64_t{0},
                         [](uint64_t sum, const Extent& e) { return sum + e.bytes; });
}

Status write_memory_file(int fd, std::span<const std::byte> memory, std::span<const Extent> extents) {
  if (const uint64_t size = GRANARY_TRY(file_size(fd)); size != 0) {
    return Error(Errc::kInvalidArgument,
                 "memory file of a snapshot holds " + std::to_string(size) + " bytes already; give an empty memfd");
  }
  if (::ftruncate(fd, static_cast<off_t>(memory.size())) != 0) return Error::last_os_error("size the memory file");
  for (const Extent& extent : extents) {
    GRANARY_TRY(pwrite_all(fd, memory.subspan(extent.offset, extent.bytes), extent.offset));
  }
  return ok();
}

Status check_seals(int fd, const char* name) {
  constexpr int kWanted = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals >= 0 && (seals & kWanted) == kWanted) return ok();
  return Error(Errc::kInvalidArgument, std::string(name) + " of a snapshot is not a sealed memfd (seals " +
                                           std::to_string(seals) + "); seal it against write, grow and shrink");
}

Status check_sealed_file(int fd, uint64_t bytes, const char* name) {
  GRANARY_TRY(check_seals(fd, name));
  const uint64_t size = GRANARY_TRY(file_size(fd));
  if (size == bytes) return ok();
  return Error(size < bytes ? Errc::kSnapshotTruncated : Errc::kSnapshotCorrupt,
               std::string(name) + " has " + std::to_string(size) + " bytes, expected " + std::to_string(bytes));
}

}  // namespace granary::snapshot
