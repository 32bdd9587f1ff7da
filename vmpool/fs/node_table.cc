// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/node_table.h"

#include <cerrno>

namespace granary::fs {
namespace {

NodeId id_of(uint32_t index, uint32_t generation) { return NodeId{generation} << 32 | index; }

}  // namespace

Node* NodeTable::find(NodeId id) {
  const auto index = static_cast<uint32_t>(id);
  if (index >= nodes_.size()) return nullptr;
  Node& node = nodes_[index];
  return node.export_ && node.generation == id >> 32 ? &node : nullptr;
}

OrErrno<NodeId> NodeTable::look_up(std::shared_ptr<const Export> in, Fd fd, const struct stat& st) {
  const Key key{in->number, st.st_dev, st.st_ino};
  if (const auto found = by_inode_.find(key); found != by_inode_.end()) {
    Node& node = nodes_[found->second];
    ++node.lookups;
    return id_of(found->second, node.generation);
  }
  if (used_ >= limit_) return errno_of(ENFILE);
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(nodes_.size()));
    nodes_.emplace_back();
  }
  const uint32_t index = free_.back();
  free_.pop_back();
  Node& node = nodes_[index];
  node.fd = std::move(fd);
  node.export_ = std::move(in);
  node.device = st.st_dev;
  node.inode = st.st_ino;
  node.type = st.st_mode & S_IFMT;
  node.lookups = 1;
  node.cached_change_ns = 0;
  by_inode_.emplace(key, index);
  ++used_;
  return id_of(index, node.generation);
}

bool NodeTable::forget(NodeId id, uint64_t count) {
  Node* node = find(id);
  if (node == nullptr) return false;
  if (count < node->lookups) {
    node->lookups -= count;
    return false;
  }
  if (node->fd.valid()) by_inode_.erase(key_of(*node));
  node->fd.reset();
  node->export_.reset();
  // 0 would make ids that look like small numbers.
  if (++node->generation == 0) node->generation = 1;
  free_.push_back(static_cast<uint32_t>(id));
  --used_;
  return true;
}

void NodeTable::close_export(const Export& gone, const std::function<void(NodeId)>& each) {
  for (uint32_t index = 0; index < nodes_.size(); ++index) {
    Node& node = nodes_[index];
    if (node.export_.get() != &gone || !node.fd.valid()) continue;
    by_inode_.erase(key_of(node));
    node.fd.reset();
    each(id_of(index, node.generation));
  }
}

}  // namespace granary::fs
