// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

namespace granary::virtio {

// A bounded first-in first-out buffer of bytes. Its memory is taken at the first push and touched only as far as used.
class ByteRing {
 public:
  explicit ByteRing(size_t capacity_bytes) : capacity_(capacity_bytes) {}

  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] size_t space() const { return capacity_ - size_; }

  // Appends as much as there is space for; returns how much that was.
  size_t push(std::span<const std::byte> from) {
    size_t done = 0;
    while (done < from.size() && space() > 0) {
      const std::span<std::byte> gap = back();
      const size_t n = std::min(gap.size(), from.size() - done);
      std::memcpy(gap.data(), from.data() + done, n);
      pushed(n);
      done += n;
    }
    return done;
  }
  // The contiguous free space after the newest byte: fill it, then say how much with pushed().
  [[nodiscard]] std::span<std::byte> back() {
    if (!bytes_) bytes_.reset(new std::byte[capacity_]);
    const size_t end = (begin_ + size_) % capacity_;
    return {bytes_.get() + end, std::min(space(), capacity_ - end)};
  }
  void pushed(size_t count) { size_ += count; }
  // The oldest bytes, as far as they are contiguous.
  [[nodiscard]] std::span<const std::byte> front() const {
    return {bytes_.get() + begin_, std::min(size_, capacity_ - begin_)};
  }
  void pop(size_t count) {
    begin_ = (begin_ + count) % capacity_;
    size_ -= count;
    if (size_ == 0) begin_ = 0;  // keeps the touched part small
  }
  void clear() { begin_ = size_ = 0; }

 private:
  size_t capacity_;
  size_t begin_ = 0;
  size_t size_ = 0;
  std::unique_ptr<std::byte[]> bytes_;
};

}  // namespace granary::virtio
