// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/pool_impl.h"

namespace granary::pool {

Status Pool::Impl::adopt(CloneInfo info, const std::string& group) {
  const std::string id = info.id;
  const std::shared_ptr<Clone> clone = GRANARY_TRY(Clone::adopt(tools(), id, info.vm, group));
  info.vmm_pid = clone->pid();
  info.socket_path = clone->socket_path();
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_[id];
    entry.clone = clone;
    entry.state = State::kRunning;
    entry.info = std::move(info);
    // The news of an end that came before this entry reached nobody.
    if (clone->ended()) {
      entry.ended_by_itself = true;
      give_up(id);
    }
  }
  emit("adopted", id, "left running by an earlier agent");
  return ok();
}

void Pool::Impl::leave_running() {
  drain(/*and_running=*/false);
  const std::lock_guard lock(mutex_);
  std::erase_if(entries_, [](const auto& entry) { return entry.second.state == State::kRunning; });
}

}  // namespace granary::pool
