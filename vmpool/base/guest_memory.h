// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "vmpool/base/mapping.h"
#include "vmpool/base/units.h"

namespace granary {

// Where guest memory ends below 4 GiB; what does not fit continues at 4 GiB. The hole holds devices (virtio-mmio, IOAPIC,
// LAPIC), as on every PC.
inline constexpr uint64_t kMemoryHoleStart = 3 * kGiB;
inline constexpr uint64_t kHighMemoryStart = 4 * kGiB;
inline constexpr uint64_t kMinGuestMemory = 1 * kMiB;
inline constexpr uint64_t kMaxGuestMemory = 512 * kGiB;

// The guest's physical memory in this process: one anonymous mapping, seen by the guest as one or two regions. Everything
// in it is hostile: copy a structure out once (`read`), check the copy, then use it. Safe for use from several threads as
// far as the guest itself is (the guest changes it at any time).
class GuestMemory {
 public:
  struct Region {
    Gpa start;
    uint64_t size_bytes = 0;
    uint64_t offset = 0;  // into the mapping, and into a snapshot's memory file
  };

  // `size_bytes`: a multiple of 4096 in [kMinGuestMemory, kMaxGuestMemory], else kMemoryOutOfRange.
  static Result<GuestMemory> create(uint64_t size_bytes);

  [[nodiscard]] std::span<const Region> regions() const { return {regions_.data(), region_count_}; }
  [[nodiscard]] uint64_t size() const { return mapping_.size(); }
  [[nodiscard]] Mapping& mapping() { return mapping_; }
  [[nodiscard]] const Mapping& mapping() const { return mapping_; }
  // One past the last byte of memory below the hole.
  [[nodiscard]] Gpa low_end() const { return regions_[0].start + regions_[0].size_bytes; }

  // A view of [start, start + size_bytes), which must lie inside one region, else kGuestAddressInvalid.
  [[nodiscard]] Result<std::span<std::byte>> range(Gpa start, uint64_t size_bytes) const;

  template <class T>
  [[nodiscard]] Result<T> read(Gpa at) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const std::span<std::byte> bytes = GRANARY_TRY(range(at, sizeof(T)));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  template <class T>
  Status write(Gpa at, const T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const std::span<std::byte> bytes = GRANARY_TRY(range(at, sizeof(T)));
    std::memcpy(bytes.data(), &value, sizeof(T));
    return ok();
  }
  Status write_bytes(Gpa at, std::span<const std::byte> from) const;

 private:
  explicit GuestMemory(Mapping mapping);
  Mapping mapping_;
  std::array<Region, 2> regions_{};
  size_t region_count_ = 0;
};

}  // namespace granary
