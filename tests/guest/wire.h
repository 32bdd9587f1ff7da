// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

// Requests of guest.proto written by hand, for the tests of the tiny guest: an encoder that owes nothing to its
// decoder.
namespace granary::wire {

inline std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}
inline std::string varint_field(uint32_t number, uint64_t value) { return varint(number << 3) + varint(value); }
inline std::string bytes_field(uint32_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}

inline std::string probe(uint64_t nonce) { return bytes_field(1, varint_field(1, nonce)); }
inline std::string identity(const std::string& uuid, const std::string& entropy, uint64_t realtime_ns) {
  return bytes_field(2, bytes_field(1, uuid) + bytes_field(2, entropy) + varint_field(3, realtime_ns) +
                            bytes_field(4, "granary-test") + bytes_field(5, std::string(16, 'm')));
}

// With its length in front, as it goes over the stream.
inline std::string framed(const std::string& message) {
  std::string bytes;
  for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(message.size() >> shift);
  return bytes + message;
}

}  // namespace granary::wire
