// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/handle_table.h"

#include <cerrno>

namespace granary::fs {

Handle* HandleTable::find(HandleId id) {
  const auto index = static_cast<uint32_t>(id);
  if (index >= handles_.size()) return nullptr;
  Handle& handle = handles_[index];
  return handle.kind != Handle::Kind::kFree && handle.generation == id >> 32 ? &handle : nullptr;
}

Handle* HandleTable::find(HandleId id, Handle::Kind kind) {
  Handle* handle = find(id);
  return handle != nullptr && handle->kind == kind ? handle : nullptr;
}

OrErrno<HandleId> HandleTable::add(Handle handle) {
  if (is_full()) return errno_of(ENFILE);
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(handles_.size()));
    handles_.emplace_back();
  }
  const uint32_t index = free_.back();
  free_.pop_back();
  handle.generation = handles_[index].generation;
  handles_[index] = std::move(handle);
  return HandleId{handles_[index].generation} << 32 | index;
}

void HandleTable::release(HandleId id) {
  Handle* handle = find(id);
  if (handle == nullptr) return;
  const uint32_t next = handle->generation + 1;
  *handle = Handle{};
  handle->generation = next == 0 ? 1 : next;
  free_.push_back(static_cast<uint32_t>(id));
}

void HandleTable::close_export(const Export& gone) {
  for (Handle& handle : handles_) {
    if (handle.export_.get() != &gone) continue;
    handle.kind = Handle::Kind::kGone;
    handle.file.reset();
    handle.directory.reset();
  }
}

}  // namespace granary::fs
