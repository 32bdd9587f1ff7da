// SPDX-License-Identifier: Apache-2.0
#include <sys/wait.h>

#include <algorithm>
#include <csignal>

#include "vmpool/pool/pool_impl.h"

namespace granary::pool {
namespace {

constexpr std::chrono::seconds kLeakRetry{5};

std::string wait_status_text(int wait_status) {
  if (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGSYS) {
    return "seccomp violation: the VMM was killed for a system call that its filter forbids";
  }
  if (WIFSIGNALED(wait_status)) return "the VMM was killed by signal " + std::to_string(WTERMSIG(wait_status));
  return "the VMM exited with " + std::to_string(WEXITSTATUS(wait_status));
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

void Pool::Impl::reclaim_loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    const std::optional<std::string> leaking = next_leaking();
    const auto something = [this] { return stopping_ || !to_reclaim_.empty() || !doomed_.empty(); };
    if (leaking && !reclaim_cv_.wait_until(lock, entries_.at(*leaking).retry_at, something)) {
      destroy_entry(lock, *leaking);
      continue;
    }
    if (!leaking) reclaim_cv_.wait(lock, [&] { return something() || next_leaking(); });
    if (!to_reclaim_.empty()) {
      const std::string id = std::move(to_reclaim_.front());
      to_reclaim_.pop_front();
      reclaim_entry(lock, id);
    } else if (!doomed_.empty()) {
      destroy_doomed(lock);
    } else if (stopping_) {
      return;
    }
  }
}

void Pool::Impl::reclaim_entry(std::unique_lock<std::mutex>& lock, const std::string& id) {
  const Entry& entry = entries_.at(id);
  if (entry.ended_by_itself) {
    const std::shared_ptr<Clone> clone = entry.clone;
    const std::string note = entry.end_note;
    lock.unlock();
    tell_ended(clone, note);
    lock.lock();
  } else if (!entry.end_note.empty()) {
    const std::string note = entry.end_note;
    lock.unlock();
    emit("clone-failed", id, "ended while warm: " + note);
    lock.lock();
  }
  destroy_entry(lock, id);
}

void Pool::Impl::tell_ended(const std::shared_ptr<Clone>& clone, const std::string& note) {
  std::function<void(const std::string&, EndState, const std::string&)> callback;
  {
    const std::lock_guard lock(mutex_);
    callback = ended_callback_;
  }
  const std::string reason = clone->end_reason() + (note.empty() ? "" : ", " + note);
  if (callback) callback(clone->id(), clone->end_state(), reason);
  emit("clone-failed", clone->id(), "ended while running: " + reason);
}

// The entry is in state kReclaiming, so it belongs to this thread until it is erased.
void Pool::Impl::destroy_entry(std::unique_lock<std::mutex>& lock, const std::string& id) {
  const std::shared_ptr<Clone> clone = entries_.at(id).clone;
  const bool again = entries_.at(id).leaking;
  lock.unlock();
  const SteadyTime begin = SteadyClock::now();
  const std::vector<std::string> leaks = destroy(*clone, again);
  emit(leaks.empty() ? "reclaimed" : "reclaim-failed", id,
       "in " + in_ms(SteadyClock::now() - begin) + ", " + std::to_string(leaks.size()) + " leaks" +
           (leaks.empty() ? "" : ": " + joined(leaks)));
  lock.lock();
  Entry& entry = entries_.at(id);
  if (!entry.leaking) count_leaks(leaks);
  if (leaks.empty()) {
    entries_.erase(id);
    ++reclaimed_;
  } else {
    // Its capacity is not free before it is proven gone.
    entry.leaking = true;
    entry.retry_at = SteadyClock::now() + kLeakRetry;
    reclaim_cv_.notify_one();
  }
  work_cv_.notify_all();
  done_cv_.notify_all();
}

std::vector<std::string> Pool::Impl::destroy(Clone& clone, bool again) {
  const char* const exit = clone.ended() ? granary::to_string(clone.end_state()) : "reclaimed";
  const SteadyTime begin = SteadyClock::now();
  const std::vector<std::string> leaks = clone.destroy();
  if (leaks.empty()) measure_since(begin, Measure::kReclaimSeconds);
  if (again) return leaks;
  if (clone.vm().value != 0) measure(Measure::kVmmExits, 1, exit);
  if (clone.flight().failed()) {
    const FlightRecord record = flight_of(clone);
    measure(Measure::kCloneFailures, 1, record.failed_in);
    resources_.observer.clone_failed(record);
  }
  return leaks;
}

std::optional<std::string> Pool::Impl::next_leaking() const {
  const Entry* first = nullptr;
  std::optional<std::string> next;
  for (const auto& [id, entry] : entries_) {
    if (!entry.leaking || (first != nullptr && first->retry_at <= entry.retry_at)) continue;
    first = &entry;
    next = id;
  }
  return next;
}

size_t Pool::Impl::leaking_count() const {
  return static_cast<size_t>(std::ranges::count_if(entries_, [](const auto& e) { return e.second.leaking; }));
}

void Pool::Impl::destroy_doomed(std::unique_lock<std::mutex>& lock) {
  const std::shared_ptr<Clone> shell = std::move(doomed_.front());
  doomed_.pop_front();
  destroying_doomed_ = true;
  lock.unlock();
  const std::vector<std::string> leaks = destroy(*shell, false);
  lock.lock();
  destroying_doomed_ = false;
  count_leaks(leaks);
  done_cv_.notify_all();
}

void Pool::Impl::count_leaks(const std::vector<std::string>& leaks) {
  leaks_ += leaks.size();
  measure(Measure::kLeaks, static_cast<double>(leaks.size()));
  if (!leaks.empty()) last_error_ = "leaked: " + joined(leaks);
}

void Pool::Impl::give_up(const std::string& id) {
  enter(entries_.at(id), State::kReclaiming);
  to_reclaim_.push_back(id);
  reclaim_cv_.notify_one();
}

// Clones that nobody owns; those of `but_generation` stay. Ones in transition are given up by their own thread.
void Pool::Impl::give_up_idle(bool and_running, std::optional<uint64_t> but_generation, const char* why) {
  for (auto& [id, entry] : entries_) {
    const bool idle = entry.state == State::kWarm && entry.generation != but_generation;
    if (!idle && !(and_running && entry.state == State::kRunning)) continue;
    if (why != nullptr) measure(Measure::kEvictions, 1, why);
    std::erase(warm_, id);
    give_up(id);
  }
}

Result<bool> Pool::Impl::release(const std::string& clone_id) {
  std::unique_lock lock(mutex_);
  const auto found = entries_.find(clone_id);
  if (found == entries_.end()) return false;
  switch (found->second.state) {
    case State::kReclaiming:
      done_cv_.wait(lock, [&] {
        const auto at = entries_.find(clone_id);
        return at == entries_.end() || at->second.leaking;
      });
      return false;
    case State::kWarm:
    case State::kRunning:
      std::erase(warm_, clone_id);
      enter(found->second, State::kReclaiming);
      destroy_entry(lock, clone_id);
      return true;
    default:
      return Error(Errc::kInvalidArgument, "clone " + clone_id + " is " + to_string(found->second.state) +
                                               "; only a warm or running one can be released");
  }
}

void Pool::Impl::on_exited(const control::VmRecord& record) {
  const std::lock_guard lock(mutex_);
  const VmId vm{record.vm_id};
  const auto dead_shell = std::find_if(shells_.begin(), shells_.end(), [&](const auto& s) { return s->vm() == vm; });
  if (dead_shell != shells_.end()) {
    (*dead_shell)->flight().fail("ended as a shell: " + wait_status_text(record.wait_status));
    doomed_.push_back(*dead_shell);
    shells_.erase(dead_shell);
    note_failure("a ready shell's VMM ended: " + wait_status_text(record.wait_status));
    reclaim_cv_.notify_one();
    work_cv_.notify_all();
    return;
  }
  for (auto& [id, entry] : entries_) {
    if (entry.info.vm != vm || (entry.state != State::kWarm && entry.state != State::kRunning)) continue;
    entry.end_note = wait_status_text(record.wait_status);
    entry.clone->flight().fail("ended while " + std::string(to_string(entry.state)) + ": " + entry.clone->end_reason() +
                               ", " + entry.end_note);
    entry.ended_by_itself = entry.state == State::kRunning;
    if (!entry.ended_by_itself) note_failure("a warm clone's VMM ended: " + entry.end_note);
    std::erase(warm_, id);
    give_up(id);
    return;
  }
}

void Pool::Impl::drain(bool and_running) {
  cancel_build_ = true;
  std::unique_lock lock(mutex_);
  draining_ = true;
  warm_cv_.notify_all();
  work_cv_.notify_all();
  const auto is_drained = [&] {
    give_up_idle(and_running, std::nullopt, nullptr);
    std::move(shells_.begin(), shells_.end(), std::back_inserter(doomed_));
    shells_.clear();
    if (!doomed_.empty()) reclaim_cv_.notify_one();
    const size_t may_stay = and_running ? 0 : count(State::kRunning);
    return entries_.size() - leaking_count() == may_stay && doomed_.empty() && !destroying_doomed_ &&
           making_shells_ == 0;
  };
  done_cv_.wait(lock, is_drained);
}

}  // namespace granary::pool
