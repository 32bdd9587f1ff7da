// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <type_traits>

#include "vmpool/virtio/device.h"

namespace granary::virtio {

// Reads part of a configuration structure; what lies beyond it reads as zero.
template <class T>
void read_config_struct(const T& config, uint32_t offset, std::span<std::byte> into) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::fill(into.begin(), into.end(), std::byte{0});
  if (offset >= sizeof(T)) return;
  const std::span<const std::byte> bytes = std::as_bytes(std::span(&config, 1)).subspan(offset);
  std::copy_n(bytes.begin(), std::min(bytes.size(), into.size()), into.begin());
}

// A device's state struct as the bytes of a snapshot, and back. Back: kSnapshotCorrupt unless the size is exactly
// right.
template <class T>
DeviceBlob to_blob(const T& state) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kMaxDeviceStateBytes);
  DeviceBlob blob;
  blob.size_bytes = sizeof(T);
  std::memcpy(blob.bytes.data(), &state, sizeof(T));
  return blob;
}
inline Status check_blob_size(const DeviceBlob& blob, size_t wanted, const char* device) {
  if (blob.size_bytes == wanted) return ok();
  return Error(Errc::kSnapshotCorrupt, std::string(device) + " state of " + std::to_string(blob.size_bytes) +
                                           " bytes; this build writes " + std::to_string(wanted));
}
template <class T>
Result<T> from_blob(const DeviceBlob& blob, const char* device) {
  GRANARY_TRY(check_blob_size(blob, sizeof(T), device));
  T state;
  std::memcpy(&state, blob.bytes.data(), sizeof(T));
  return state;
}

}  // namespace granary::virtio
