// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vmpool/pool/template_store.h"

namespace granary::pool {

// A run of bytes of a template's memory file; what lies between runs is zero and not stored.
struct FileExtent {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  friend bool operator==(const FileExtent&, const FileExtent&) = default;
};

// manifest.json of a stored template: one JSON object {"manifest": {…}, "sha256": hash of the first member's text}.
struct Manifest {
  static constexpr int kFormat = 1;
  static constexpr size_t kMaxExtents = 65536;
  static constexpr uint64_t kMaxStateBytes = 64ULL << 20;

  TemplateInfo info;
  std::vector<FileExtent> extents;  // ascending, not touching, inside info.memory_bytes
  std::string state_sha256;
  std::string memory_sha256;  // over (offset, bytes, content) of each extent

  [[nodiscard]] std::string to_json() const;
  // Strict: every bit of the text counts, and every value is inside its bounds. kSnapshotCorrupt; kSnapshotVersion.
  static Result<Manifest> from_json(const std::string& text);
};

}  // namespace granary::pool
