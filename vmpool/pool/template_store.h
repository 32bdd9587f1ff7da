// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "vmpool/base/fd.h"
#include "vmpool/base/result.h"

namespace granary::pool {

// Everything a template depends on, in a stable text form: "kernel <sha256>\ninitramfs <sha256>\ncommand-line …\nshape …\n
// vmm <build id>\nformat <n>\ncpu …\nmicrocode …\nhost-kernel …\ncpuid <sha256>\ntsc-khz …\n". The key is its SHA-256.
struct TemplateInputs {
  std::map<std::string, std::string> lines;
  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::string key() const;  // 64 hex digits
};

// A template ready for restores: two sealed memfds.
struct Template {
  std::string key;
  Fd state;
  Fd memory;
};

struct TemplateInfo {
  std::string key;
  std::string inputs;  // TemplateInputs::text()
  uint64_t memory_bytes = 0;
  uint64_t populated_bytes = 0;
  uint64_t state_bytes = 0;
  int64_t created_unix_s = 0;
  double boot_seconds = 0;
};

// Templates on disk: DIR/<key>/{manifest.json,state,memory}, written to a temporary name with fsync and renamed; a folder
// without a valid manifest is rubbish from a crash and is removed at open. Checksums (SHA-256 of both files) are verified once, at load.
// One process per directory (flock; kAlreadyRunning otherwise).
class TemplateStore {
 public:
  static Result<TemplateStore> open(const std::string& directory);

  // Copies both files into sealed memfds and verifies them. ENOENT when there is none; kSnapshotTruncated / kSnapshotCorrupt
  // when it is damaged (the damaged one is removed).
  Result<Template> load(const std::string& key);
  // Stores a fresh template. ENOSPC leaves nothing behind; the caller can go on with the memfds alone.
  Status save(const TemplateInfo& info, const Template& content);
  Result<std::vector<TemplateInfo>> list() const;
  // True: removed; false: was absent.
  Result<bool> remove(const std::string& key);

 private:
  TemplateStore(std::string directory, Fd lock) : directory_(std::move(directory)), lock_(std::move(lock)) {}
  std::string directory_;
  Fd lock_;
};

}  // namespace granary::pool
