// SPDX-License-Identifier: Apache-2.0
#include "vmpool/boot/aml.h"

namespace granary::boot::aml {
namespace {

enum Op : uint8_t {
  kZero = 0x00,
  kOne = 0x01,
  kName = 0x08,
  kByte = 0x0a,
  kWord = 0x0b,
  kDword = 0x0c,
  kString = 0x0d,
  kQword = 0x0e,
  kScope = 0x10,
  kBuffer = 0x11,
  kPackage = 0x12,
  kMethod = 0x14,
  kDualName = 0x2e,
  kMultiName = 0x2f,
  kExtended = 0x5b,
  kRoot = 0x5c,
  kArg0 = 0x68,
  kNotify = 0x86,
  kEqual = 0x93,
  kIf = 0xa0,
  kExtendedDevice = 0x82,
};
constexpr uint8_t kMethodSerialized = 0x08;
constexpr size_t kSegment = 4;

Bytes byte(uint64_t value) { return Bytes(1, static_cast<char>(value & 0xff)); }

Bytes little_endian(uint64_t value, unsigned size_bytes) {
  Bytes bytes;
  for (unsigned i = 0; i < size_bytes; ++i) bytes += byte(value >> (8 * i));
  return bytes;
}

// PkgLength counts itself: one byte up to 63, else a nibble and one to three bytes (20.2.4).
Bytes with_length(const Bytes& content) {
  if (content.size() + 1 <= 0x3f) return byte(content.size() + 1) + content;
  unsigned extra = 1;
  while (content.size() + 1 + extra >= (uint64_t{1} << (4 + 8 * extra))) ++extra;
  const uint64_t length = content.size() + 1 + extra;
  return byte(uint64_t{extra} << 6 | (length & 0xf)) + little_endian(length >> 4, extra) + content;
}

}  // namespace

Bytes path(std::string_view text) {
  Bytes bytes;
  if (text.starts_with('\\')) {
    bytes += byte(kRoot);
    text.remove_prefix(1);
  }
  Bytes segments;
  size_t count = 0;
  while (!text.empty()) {
    segments += text.substr(0, kSegment);
    text.remove_prefix(kSegment);
    if (text.starts_with('.')) text.remove_prefix(1);
    ++count;
  }
  if (count == 2) bytes += byte(kDualName);
  if (count > 2) bytes += byte(kMultiName) + byte(count);
  return bytes + segments;
}

Bytes integer(uint64_t value) {
  if (value == 0) return byte(kZero);
  if (value == 1) return byte(kOne);
  if (value <= 0xff) return byte(kByte) + byte(value);
  if (value <= 0xffff) return byte(kWord) + little_endian(value, 2);
  if (value <= 0xffff'ffff) return byte(kDword) + little_endian(value, 4);
  return byte(kQword) + little_endian(value, 8);
}

Bytes string(std::string_view text) { return byte(kString) + Bytes(text) + byte(0); }

Bytes eisa_id(std::string_view id) {
  uint64_t packed = 0;
  for (const char letter : id.substr(0, 3)) packed = packed << 5 | static_cast<uint64_t>(letter - 0x40);
  for (const char digit : id.substr(3)) {
    packed = packed << 4 | static_cast<uint64_t>(digit <= '9' ? digit - '0' : digit - 'A' + 10);
  }
  // Stored with the most significant byte first.
  Bytes bytes = byte(kDword);
  for (const unsigned shift : {24U, 16U, 8U, 0U}) bytes += byte(packed >> shift);
  return bytes;
}

Bytes name(std::string_view path_text, const Bytes& value) { return byte(kName) + path(path_text) + value; }

Bytes package(std::initializer_list<Bytes> elements) {
  Bytes content = byte(elements.size());
  for (const Bytes& element : elements) content += element;
  return byte(kPackage) + with_length(content);
}

Bytes buffer(const Bytes& content) { return byte(kBuffer) + with_length(integer(content.size()) + content); }

Bytes scope(std::string_view path_text, const Bytes& content) {
  return byte(kScope) + with_length(path(path_text) + content);
}

Bytes device(std::string_view path_text, const Bytes& content) {
  return byte(kExtended) + byte(kExtendedDevice) + with_length(path(path_text) + content);
}

Bytes method(std::string_view path_text, unsigned arguments, const Bytes& body) {
  return byte(kMethod) + with_length(path(path_text) + byte((arguments & 7) | kMethodSerialized) + body);
}

Bytes if_arg0_equals(uint64_t value, const Bytes& body) {
  return byte(kIf) + with_length(byte(kEqual) + byte(kArg0) + integer(value) + body);
}

Bytes notify(std::string_view path_text, uint64_t value) { return byte(kNotify) + path(path_text) + integer(value); }

Bytes io_port(uint16_t first, uint8_t count) {
  constexpr uint8_t kIoDescriptor = 0x47;
  constexpr uint8_t kDecode16 = 1;
  constexpr uint8_t kAlignment = 1;
  return byte(kIoDescriptor) + byte(kDecode16) + little_endian(first, 2) + little_endian(first, 2) + byte(kAlignment) +
         byte(count);
}

Bytes memory32_fixed(uint32_t start, uint32_t size_bytes) {
  constexpr uint8_t kDescriptor = 0x86;
  constexpr uint8_t kReadWrite = 1;
  return byte(kDescriptor) + little_endian(9, 2) + byte(kReadWrite) + little_endian(start, 4) +
         little_endian(size_bytes, 4);
}

Bytes edge_interrupt(uint32_t gsi) {
  constexpr uint8_t kDescriptor = 0x89;
  constexpr uint8_t kConsumerEdgeHighExclusive = 0x03;
  return byte(kDescriptor) + little_endian(6, 2) + byte(kConsumerEdgeHighExclusive) + byte(1) + little_endian(gsi, 4);
}

Bytes resources(const Bytes& descriptors) {
  constexpr uint8_t kEndTag = 0x79;
  return buffer(descriptors + byte(kEndTag) + byte(0));  // checksum 0: "treat as correct" (6.4.2.9)
}

}  // namespace granary::boot::aml
