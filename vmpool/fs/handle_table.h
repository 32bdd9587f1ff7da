// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dirent.h>

#include <memory>
#include <vector>

#include "vmpool/fs/node_table.h"

namespace granary::fs {

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

// What the guest has open: a file, a directory, or the root (`names`). Empty once its export is gone.
struct Handle {
  enum class Kind : uint8_t { kFree, kFile, kDirectory, kRoot, kGone };
  Kind kind = Kind::kFree;
  std::shared_ptr<const Export> export_ = {};
  Fd file = {};
  Directory directory = {};
  long position = 0;                    // of `directory`
  std::vector<std::string> names = {};  // of the root's exports when it was opened
  uint32_t generation = 1;
};

using HandleId = uint64_t;

// Open files by number, with generations as NodeTable has them: a guest must not name any other descriptor of this
// process. Bounded; deleted files stay open here.
class HandleTable {
 public:
  explicit HandleTable(size_t limit) : limit_(limit) {}
  // nullptr: no such handle, or of another kind.
  [[nodiscard]] Handle* find(HandleId id, Handle::Kind kind);
  // ENFILE.
  OrErrno<HandleId> add(Handle handle);
  void release(HandleId id);
  void close_export(const Export& gone);
  [[nodiscard]] size_t size() const { return handles_.size() - free_.size(); }
  [[nodiscard]] bool is_full() const { return size() >= limit_; }

 private:
  Handle* find(HandleId id);
  size_t limit_;
  std::vector<Handle> handles_;
  std::vector<uint32_t> free_;
};

}  // namespace granary::fs
