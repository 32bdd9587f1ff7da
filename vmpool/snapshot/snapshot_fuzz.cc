// SPDX-License-Identifier: Apache-2.0
// The snapshot loader on arbitrary bytes: once as they are, once with checksums put right, so that the checks behind
// them are reached. What decodes must encode to the same bytes.
#include <zlib.h>

#include <cstdlib>
#include <cstring>

#include "vmpool/snapshot/snapshot_format.h"

namespace {

// The file's layout (snapshot_format.cc): a 24-byte head, then six table entries of 32 bytes.
constexpr size_t kHeadBytes = 24;
constexpr size_t kEntries = 6;
constexpr size_t kEntryBytes = 32;
constexpr size_t kHeaderBytes = kHeadBytes + kEntries * kEntryBytes;

uint32_t crc(const std::byte* at, size_t bytes) {
  return static_cast<uint32_t>(::crc32_z(0, reinterpret_cast<const unsigned char*>(at), bytes));
}

template <class T>
T load(const std::vector<std::byte>& file, size_t at) {
  T value;
  std::memcpy(&value, file.data() + at, sizeof(T));
  return value;
}

template <class T>
void store(std::vector<std::byte>& file, size_t at, T value) {
  std::memcpy(file.data() + at, &value, sizeof(T));
}

void repair(std::vector<std::byte>& file) {
  if (file.size() < kHeaderBytes) return;
  uint64_t at = kHeaderBytes;
  for (size_t i = 0; i < kEntries; ++i) {
    const size_t entry = kHeadBytes + i * kEntryBytes;
    const uint64_t bytes = std::min<uint64_t>(load<uint64_t>(file, entry + 16), file.size() - at);
    store<uint64_t>(file, entry + 8, at);
    store<uint32_t>(file, entry + 4, crc(file.data() + at, bytes));
    at += bytes;
  }
  store<uint64_t>(file, 16, file.size());
  store<uint32_t>(file, 12, 0);
  store<uint32_t>(file, 12, crc(file.data(), kHeaderBytes));
}

void check(const std::vector<std::byte>& file) {
  const granary::Result<granary::snapshot::Snapshot> snapshot = granary::snapshot::decode(file);
  if (snapshot && granary::snapshot::encode(*snapshot) != file) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> file(size);
  if (size > 0) std::memcpy(file.data(), data, size);
  check(file);
  repair(file);
  check(file);
  return 0;
}
