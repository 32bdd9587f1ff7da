// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "vmpool/virtio/fake_driver.h"

namespace granary::virtio {

// Test code: an input of a fuzzer as a source of numbers; zeroes when it is used up.
class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : bytes_(data, size) {}
  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  template <class T>
  T take() {
    T value{};
    const size_t n = std::min(sizeof(T), bytes_.size());
    if (n > 0) std::memcpy(&value, bytes_.data(), n);
    bytes_ = bytes_.subspan(n);
    return value;
  }
  std::span<const uint8_t> take_bytes(size_t count) {
    const std::span<const uint8_t> taken = bytes_.first(std::min(count, bytes_.size()));
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }

 private:
  std::span<const uint8_t> bytes_;
};

// Plays a driver from fuzzer input: first byte odd = negotiate and set up all queues first; then one operation per byte
// (modulo 8), each with its operands:
//   0 register write (u16 offset, u32 value)      1 descriptor write (u8 queue, u8 index, u32 address, u16 length, u8
//   flags, u8 next) 2 make available and kick (u8 queue, u8 head)   3 kick (u8 queue) 4 memory write (u16 address / 16,
//   u8 length, bytes)   5 config write (u8 offset, u32)   6 host action   7 reads
// Addresses of descriptors wrap at 9 MiB, so that most lie inside the 8 MiB of memory. `host` does what the host can
// do.
void fuzz_device(FuzzInput& input, FakeMachine& machine, const std::function<void(FuzzInput&)>& host);

}  // namespace granary::virtio
