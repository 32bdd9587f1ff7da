// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <tl/expected.hpp>
#include <unordered_map>
#include <vector>

#include "vmpool/base/fd.h"

namespace granary::fs {

// A value or an errno, for the guest.
template <class T>
using OrErrno = tl::expected<T, int>;
inline tl::unexpected<int> errno_of(int number) { return tl::unexpected<int>(number); }
inline tl::unexpected<int> last_errno() { return errno_of(errno); }

// A directory or file that the guest sees below the root. Shared by what is open in it, so that a late look at any of
// that still finds out that it is gone.
struct Export {
  uint64_t number = 0;
  std::string name;
  bool read_only = false;
  bool gone = false;
  Fd fd;  // O_PATH
};

// An inode that the guest knows: pinned by an O_PATH descriptor, never by a path.
struct Node {
  Fd fd;                                  // none once its export is gone
  std::shared_ptr<const Export> export_;  // nullptr: a free entry
  dev_t device = 0;
  ino_t inode = 0;
  mode_t type = 0;  // S_IFMT bits; an inode keeps its type
  uint64_t lookups = 0;
  uint32_t generation = 1;
  int64_t cached_change_ns = 0;  // change time of what the guest has cached; 0: it says nothing (content_stamp.h)
};

using NodeId = uint64_t;

// What the guest calls node ids: place in the table and a generation that changes when the place is used again, so that
// a forged or old id is none. One inode seen through two exports is two nodes. Bounded: beyond `limit` pinned inodes
// there are none until the guest forgets some.
class NodeTable {
 public:
  explicit NodeTable(size_t limit) : limit_(limit) {}

  // nullptr: no such id.
  [[nodiscard]] Node* find(NodeId id);
  // Takes over `fd`; the guest holds the node once more. ENFILE.
  OrErrno<NodeId> look_up(std::shared_ptr<const Export> in, Fd fd, const struct stat& st);
  // The guest gives back `count` of its holds. True: the node is gone.
  bool forget(NodeId id, uint64_t count);
  // Closes what belongs to an export; its ids stay known, as dead ones, until they are forgotten.
  // `each` is told their ids.
  void close_export(const Export& gone, const std::function<void(NodeId)>& each);
  [[nodiscard]] size_t size() const { return used_; }
  [[nodiscard]] bool is_nearly_full() const { return used_ >= limit_ / 4 * 3; }

 private:
  struct Key {
    uint64_t export_number;
    dev_t device;
    ino_t inode;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    size_t operator()(const Key& key) const {
      return std::hash<uint64_t>()(key.inode * 0x9e3779b97f4a7c15ULL ^ key.device << 20 ^ key.export_number);
    }
  };
  static Key key_of(const Node& node) { return {node.export_->number, node.device, node.inode}; }

  size_t limit_;
  size_t used_ = 0;
  std::vector<Node> nodes_;
  std::vector<uint32_t> free_;
  std::unordered_map<Key, uint32_t, Hash> by_inode_;
};

}  // namespace granary::fs
