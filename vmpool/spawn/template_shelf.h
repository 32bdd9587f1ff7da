// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include "vmpool/base/fd.h"

namespace granary::spawn {

// Keeps the sealed memfds of templates while the agent restarts. What is put here must not be writable by anyone any
// more, the giver included, since clones of several owners are restored from it.
class TemplateShelf {
 public:
  static constexpr size_t kLimit = 64;

  struct Entry {
    Fd state;
    Fd memory;
  };

  // Replaces an entry of the same key. kInvalidArgument: the key is not 64 hex digits or a descriptor is not a sealed
  // memfd; ENOSPC: kLimit templates are kept already.
  Status put(const std::string& key, Entry entry);
  // ENOENT; the entry stays here.
  [[nodiscard]] Result<const Entry*> get(const std::string& key) const;
  // True: dropped, false: was absent.
  bool drop(const std::string& key) { return entries_.erase(key) > 0; }

 private:
  std::map<std::string, Entry> entries_;
};

}  // namespace granary::spawn
