// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/pool_impl.h"

namespace granary::pool {

Status Pool::Impl::adopt(CloneInfo info, const std::string& group, const std::string& owners_group,
                         std::function<Status()> unwire) {
  const std::string id = info.id;
  const std::shared_ptr<Clone> clone = GRANARY_TRY(Clone::adopt(tools(), info, group, owners_group));
  clone->unwire_at_end(std::move(unwire));
  if (owners_group.empty()) {
    // A limit that cannot be raised is no reason to lose a clone that somebody holds.
    if (const Status stays = clone->stay(growth_of(settings_.shape)); !stays) {
      clone->flight().note("limit not raised", stays.error().message());
    }
  }
  info.vmm_pid = clone->pid();
  info.socket_path = clone->socket_path();
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_[id];
    entry.clone = clone;
    enter(entry, State::kRunning);
    entry.info = std::move(info);
    // The news of an end that came before this entry reached nobody.
    if (clone->ended()) {
      entry.ended_by_itself = true;
      clone->flight().fail("ended before it was adopted");
      give_up(id);
    }
  }
  emit("adopted", id, "left running by an earlier agent");
  return ok();
}

void Pool::Impl::spawner_replaced() {
  std::vector<std::shared_ptr<Clone>> running;
  std::shared_ptr<const Template> content;
  {
    const std::lock_guard lock(mutex_);
    give_up_idle(/*and_running=*/false, std::nullopt, "spawner");
    std::move(shells_.begin(), shells_.end(), std::back_inserter(doomed_));
    shells_.clear();
    for (const auto& [id, entry] : entries_) {
      if (entry.state == State::kRunning || entry.state == State::kAcquiring) running.push_back(entry.clone);
    }
    // Made for another VMM build, it is never loaded by this one: the template thread finds or builds its successor.
    if (template_.content && template_.vmm_build_id != resources_.vmm_build_id()) {
      template_.content = nullptr;
      ++template_.generation;
      template_state_ = "waiting";
    }
    content = template_.content;
  }
  reclaim_cv_.notify_one();
  work_cv_.notify_all();
  if (content) (void)resources_.spawner.put_template(*content);
  for (const std::shared_ptr<Clone>& clone : running) {
    const Status given = clone->entrust();
    if (!given) clone->flight().fail("not taken by the new spawner: " + given.error().message());
    if (!given) emit("clone-failed", clone->id(), "not taken by the new spawner: " + given.error().message());
    // Nobody tells of an end that came before the new spawner watched, nor of one that it does not watch.
    if (!given || clone->ended()) lose(*clone);
  }
}

void Pool::Impl::lose(const Clone& clone) {
  const std::lock_guard lock(mutex_);
  const auto at = entries_.find(clone.id());
  if (at == entries_.end()) return;
  at->second.lost = true;  // for a hand-over that is under way
  if (at->second.state != State::kRunning) return;
  at->second.ended_by_itself = true;
  at->second.end_note = "its spawner has gone";
  at->second.clone->flight().fail("ended while running: its spawner has gone");
  give_up(clone.id());
}

void Pool::Impl::leave_running() {
  drain(/*and_running=*/false);
  const std::lock_guard lock(mutex_);
  std::erase_if(entries_, [](const auto& entry) { return entry.second.state == State::kRunning; });
}

}  // namespace granary::pool
