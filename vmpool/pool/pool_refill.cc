// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/fault.h"
#include "vmpool/pool/pool_impl.h"

namespace granary::pool {

void Backoff::failed(SteadyTime now) {
  constexpr std::chrono::milliseconds kFirst{50};
  constexpr std::chrono::milliseconds kLongest{10'000};
  constexpr int kMostDoublings = 8;
  not_before_ = now + std::min(kFirst * (1 << std::min(failures_, kMostDoublings)), kLongest);
  ++failures_;
}

void Pool::Impl::start_refill_threads() {
  for (; refill_threads_ < settings_.refill_concurrency; ++refill_threads_) {
    threads_.emplace_back([this, index = refill_threads_] { refill_loop(index); });
  }
}

void Pool::Impl::refill_loop(uint32_t index) {
  std::unique_lock lock(mutex_);
  for (;;) {
    switch (next_work(index)) {
      case Work::kStop:
        return;
      case Work::kRefill:
        refill_one(lock);
        break;
      case Work::kShell:
        shell_one(lock);
        break;
      case Work::kWait: {
        const SteadyTime from = no_work_before();
        if (from > SteadyClock::now()) {
          work_cv_.wait_until(lock, from);
        } else {
          work_cv_.wait(lock);
        }
      }
    }
  }
}

// A hand-over's caller gets its answer before its successor takes the CPUs.
SteadyTime Pool::Impl::no_work_before() const {
  constexpr std::chrono::milliseconds kAnswerFirst{2};
  return waiters_ > 0 ? backoff_.not_before() : std::max(backoff_.not_before(), handed_over_ + kAnswerFirst);
}

Pool::Impl::Work Pool::Impl::next_work(uint32_t index) const {
  if (stopping_) return Work::kStop;
  if (index >= settings_.refill_concurrency) return Work::kWait;
  if (draining_ || SteadyClock::now() < no_work_before()) return Work::kWait;
  const uint32_t coming = count(State::kRestoring) + count(State::kProbing) + static_cast<uint32_t>(warm_.size());
  const bool allowed = coming < waiters_ || entries_.size() < allowance_.clones;
  const bool wanted = coming < idle_target() + waiters_ && allowed && entries_.size() < settings_.max;
  if (template_.content && !is_used_up() && wanted) return Work::kRefill;
  if (allowance_.idle == 0 || settings_.charge == Charge::kExact) return Work::kWait;
  const bool room_for_shell = entries_.size() + shells_.size() + making_shells_ < settings_.max;
  if (shells_.size() + making_shells_ < settings_.refill_concurrency && room_for_shell) return Work::kShell;
  return Work::kWait;
}

std::shared_ptr<Clone> Pool::Impl::take_shell() {
  while (!shells_.empty()) {
    std::shared_ptr<Clone> shell = std::move(shells_.front());
    shells_.pop_front();
    if (!shell->ended()) return shell;
    doomed_.push_back(std::move(shell));
    reclaim_cv_.notify_one();
  }
  return nullptr;
}

void Pool::Impl::refill_one(std::unique_lock<std::mutex>& lock) {
  std::shared_ptr<Clone> clone = take_shell();
  const bool is_shell = clone != nullptr;
  if (!is_shell) {
    Result<std::shared_ptr<Clone>> made = Clone::create(tools(), "clone");
    if (!made) return note_failure(made.error().message());
    clone = std::move(*made);
  }
  const Result<bool> restored = restore_as(lock, clone, is_shell, State::kWarm);
  if (!restored && !draining_) note_failure(restored.error().message());
}

// On the acquirer's thread, born in its owner's group. Nothing while there is no template or no room, or others are
// being restored: then work_cv_ tells when to try again. A failure may be that owner's, so that it delays nobody else.
Result<std::optional<std::string>> Pool::Impl::restore_for_owner(std::unique_lock<std::mutex>& lock,
                                                                 const std::string& cgroup_parent) {
  const bool is_busy = count(State::kRestoring) + count(State::kProbing) >= settings_.refill_concurrency;
  const bool is_full = entries_.size() >= settings_.max;
  if (!template_.content || is_used_up() || is_busy || is_full) return std::optional<std::string>();
  const std::shared_ptr<Clone> clone = GRANARY_TRY(
      Clone::create(tools(), cgroup_parent.empty() ? "clone" : owners_prefix(cgroup_parent)));
  const Result<bool> restored = restore_as(lock, clone, /*is_shell=*/false, State::kAcquiring);
  work_cv_.notify_all();
  if (!restored) return restored.error();
  return *restored ? std::optional(clone->id()) : std::nullopt;
}

// False: nobody wants it any more, and it is given up, as after an error.
Result<bool> Pool::Impl::restore_as(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Clone>& clone,
                                    bool is_shell, State then) {
  const std::string id = clone->id();
  ++template_.clones;
  if (is_used_up()) work_cv_.notify_all();
  const CurrentTemplate from = template_;
  const uint64_t limits = limits_version_;
  const uint64_t epoch = resources_.spawner.epoch();
  Entry& entry = entries_[id];
  entry.clone = clone;
  entry.generation = from.generation;
  entry.begun = SteadyClock::now();
  enter(entry, State::kRestoring);
  entry.info.id = id;
  entry.info.pool = settings_.name;
  entry.info.template_key = from.content->key;
  const std::chrono::milliseconds probe_timeout = settings_.probe_timeout;
  lock.unlock();
  const Status prepared = prepare(*clone, is_shell, *from.content, probe_timeout);
  lock.lock();
  Entry& done = entries_.at(id);
  done.info.vm = clone->vm();
  done.info.vmm_pid = clone->pid();
  done.info.socket_path = clone->socket_path();
  // The new spawner knows nothing of a VM that was made by the one before.
  const bool usable = prepared && !clone->ended() && epoch == resources_.spawner.epoch();
  const bool wanted = usable && !draining_ && from.generation == template_.generation;
  Error why(Errc::kVmmFailed, "ended while its clone was prepared");
  if (!prepared) why = prepared.error();
  if (wanted) {
    enter(done, then);
    if (then == State::kWarm) {
      warm_.push_back(id);
      measure_since(done.begun, Measure::kRefillSeconds);
    }
    backoff_.succeeded();
    // It was wanted when it was begun.
    if (limits != limits_version_) give_up_surplus();
    warm_cv_.notify_one();
  } else {
    if (!usable) clone->flight().fail(why.message());
    give_up(id);
  }
  lock.unlock();
  measure(Measure::kRefills, 1, usable ? "ok" : "failed");
  const uint64_t bytes = usable ? clone->measure() : 0;
  if (bytes > 0) {
    const std::lock_guard measured(mutex_);
    if (from.generation == template_.generation) last_measured_bytes_ = bytes;
  }
  if (usable) {
    emit("clone-ready", id, is_shell ? "restored into a ready shell" : "restored");
  } else {
    emit("clone-failed", id, why.message());
  }
  lock.lock();
  if (!usable) return why;
  return wanted;
}

Status Pool::Impl::prepare(Clone& clone, bool is_shell, const Template& content,
                           std::chrono::milliseconds probe_timeout) {
  if (!is_shell) GRANARY_TRY(clone.make_shell(settings_.shape));
  const SteadyTime begin = SteadyClock::now();
  GRANARY_TRY(clone.restore(content));
  measure_since(begin, Measure::kRestoreSeconds);
  fault_point("restore.done");
  set_state(clone.id(), State::kProbing);
  const SteadyTime restored = SteadyClock::now();
  GRANARY_TRY(clone.probe(probe_timeout));
  measure_since(restored, Measure::kProbeSeconds);
  fault_point("restore.probed");
  return clone.park();
}

void Pool::Impl::shell_one(std::unique_lock<std::mutex>& lock) {
  ++making_shells_;
  lock.unlock();
  Result<std::shared_ptr<Clone>> shell = Clone::create(tools(), "clone");
  const Status made = shell ? (*shell)->make_shell(settings_.shape) : Status(shell.error());
  if (made) (*shell)->measure();
  lock.lock();
  --making_shells_;
  if (!made && !draining_) note_failure(made.error().message());
  if (!made && shell) (*shell)->flight().fail(made.error().message());
  if (shell && made && !draining_ && allowance_.idle > 0 && settings_.charge == Charge::kResidue) {
    shells_.push_back(std::move(*shell));
  } else if (shell) {
    doomed_.push_back(std::move(*shell));
    reclaim_cv_.notify_one();
  }
  done_cv_.notify_all();
}

void Pool::Impl::set_state(const std::string& id, State state) {
  const std::lock_guard lock(mutex_);
  enter(entries_.at(id), state);
}

void Pool::Impl::enter(Entry& entry, State state) {
  entry.state = state;
  entry.clone->flight().note(to_string(state));
}

void Pool::Impl::note_failure(const std::string& what) {
  last_error_ = what;
  backoff_.failed(SteadyClock::now());
}

}  // namespace granary::pool
