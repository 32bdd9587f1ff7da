// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmpool/base/result.h"

namespace granary {

// Owns one mmap(2) region; unmapped with its owner. Move-only.
class Mapping {
 public:
  // Anonymous private memory, MAP_NORESERVE.
  static Result<Mapping> anonymous(size_t size_bytes);
  // A file, shared; writable or read-only.
  static Result<Mapping> shared_file(int fd, size_t size_bytes, bool writable);

  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] std::span<std::byte> bytes() const { return {data_, size_}; }

  // Replaces [offset, offset + length) by a copy-on-write view of `fd` at `file_offset` (MAP_FIXED | MAP_PRIVATE). All
  // three are multiples of the page size and inside the mapping, else EINVAL.
  Status overlay_private(size_t offset, size_t length, int fd, uint64_t file_offset);

 private:
  Mapping(std::byte* data, size_t size) : data_(data), size_(size) {}
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace granary
