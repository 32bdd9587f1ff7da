// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "vmpool/base/fd.h"
#include "vmpool/base/result.h"

namespace granary::pool {

// Everything a template depends on, by name; text() is "<name> <value>\n" in order of names: kernel and initramfs
// (SHA-256), command-line, shape-…, vmm (build id), host-… (CPU, microcode, kernel, CPUID, TSC). The key is the text's
// SHA-256.
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

// Templates on disk: DIR/<key>/{manifest.json,state,memory}, written to a temporary name with fsync and renamed;
// temporary names are rubbish from a crash and are removed at open. Checksums (SHA-256 of all three files) are verified
// once, at load. `memory` is sparse: only what is populated takes blocks. One process per directory (flock;
// kAlreadyRunning otherwise). Threads: any; two that save the same key both succeed, the later one stays.
class TemplateStore {
 public:
  static Result<TemplateStore> open(const std::string& directory);

  // Copies both files into sealed memfds and verifies them. ENOENT when there is none; kSnapshotTruncated,
  // kSnapshotCorrupt or kSnapshotVersion when it is damaged or foreign (it is removed then).
  Result<Template> load(const std::string& key);
  // Stores a fresh template, in place of one with the same key; `info.key` and `info.state_bytes` … are taken from
  // `content`. ENOSPC leaves nothing behind; the caller can go on with the memfds alone.
  Status save(const TemplateInfo& info, const Template& content);
  Result<std::vector<TemplateInfo>> list() const;
  // True: removed; false: was absent. kInvalidArgument for what is no key.
  Result<bool> remove(const std::string& key);

 private:
  TemplateStore(std::string directory, Fd lock) : directory_(std::move(directory)), lock_(std::move(lock)) {}
  [[nodiscard]] std::string path_of(const std::string& key) const { return directory_ + "/" + key; }
  Result<Template> load_verified(const std::string& key) const;

  std::string directory_;
  Fd lock_;  // the directory itself
};

}  // namespace granary::pool
