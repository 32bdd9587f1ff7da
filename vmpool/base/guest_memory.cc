// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/guest_memory.h"

#include <algorithm>
#include <cstdio>

namespace granary {
namespace {

Error out_of_range(Gpa start, uint64_t size_bytes) {
  char text[80];
  std::snprintf(text, sizeof(text), "guest range 0x%llx + %llu bytes",
                static_cast<unsigned long long>(start.value),
                static_cast<unsigned long long>(size_bytes));
  return {Errc::kGuestAddressInvalid, text};
}

}  // namespace

Result<GuestMemory> GuestMemory::create(uint64_t size_bytes) {
  if (size_bytes < kMinGuestMemory || size_bytes > kMaxGuestMemory || size_bytes % kPageSize != 0) {
    return Error(Errc::kMemoryOutOfRange,
                 "guest memory of " + std::to_string(size_bytes) + " bytes; allowed: multiples of " +
                     std::to_string(kPageSize) + " from 1 MiB to 512 GiB");
  }
  return GuestMemory(GRANARY_TRY(Mapping::anonymous(size_bytes)));
}

GuestMemory::GuestMemory(Mapping mapping) : mapping_(std::move(mapping)) {
  const uint64_t low = std::min<uint64_t>(mapping_.size(), kMemoryHoleStart);
  regions_[0] = {Gpa{0}, low, 0};
  region_count_ = 1;
  if (mapping_.size() > low) {
    regions_[1] = {Gpa{kHighMemoryStart}, mapping_.size() - low, low};
    region_count_ = 2;
  }
}

Result<std::span<std::byte>> GuestMemory::range(Gpa start, uint64_t size_bytes) const {
  for (const Region& region : regions()) {
    if (start < region.start) continue;
    const uint64_t into = start.value - region.start.value;
    if (into <= region.size_bytes && size_bytes <= region.size_bytes - into) {
      return std::span<std::byte>(mapping_.data() + region.offset + into, size_bytes);
    }
  }
  return out_of_range(start, size_bytes);
}

Status GuestMemory::write_bytes(Gpa at, std::span<const std::byte> from) const {
  const std::span<std::byte> bytes = GRANARY_TRY(range(at, from.size()));
  std::memcpy(bytes.data(), from.data(), from.size());
  return ok();
}

}  // namespace granary
