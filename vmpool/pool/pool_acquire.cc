// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "vmpool/guest/network_check.h"
#include "vmpool/pool/pool_impl.h"

namespace granary::pool {
namespace {

constexpr size_t kMaxHostnameBytes = 63;

// Checked here: a name that every guest refuses would cost one clone per try.
Status check_hostname(const std::string& hostname) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
  };
  if (hostname.empty() ||
      (hostname.size() <= kMaxHostnameBytes && std::all_of(hostname.begin(), hostname.end(), allowed) &&
       hostname.front() != '-' && hostname.front() != '.')) {
    return ok();
  }
  return Error(Errc::kInvalidArgument,
               "hostname \"" + hostname.substr(0, 80) + "\": allowed are up to 63 letters, digits, '-' and '.'");
}

// The VMM is well and said no: another clone's would say the same.
bool is_refusal(const Error& error) {
  for (const Errc failure :
       {Errc::kVmmFailed, Errc::kPeerGone, Errc::kDeadlineExceeded, Errc::kProtocolMalformed, Errc::kProtocolVersion}) {
    if (error.is(failure)) return false;
  }
  return true;
}

}  // namespace

Result<std::shared_ptr<Clone>> Pool::Impl::running(const std::string& clone_id) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(clone_id);
  if (found == entries_.end() || found->second.state != State::kRunning) {
    return Error(Errc::kCloneUnknown, "clone " + clone_id + " does not run in pool " + settings_.name);
  }
  return found->second.clone;
}

Result<uint32_t> Pool::Impl::attach(const std::string& clone_id, const Disk& disk) {
  const std::shared_ptr<Clone> clone = GRANARY_TRY(running(clone_id));
  return clone->attach_running(disk, settings().shape.devices.block_slots);
}

Status Pool::Impl::detach(const std::string& clone_id, uint32_t disk) {
  const std::shared_ptr<Clone> clone = GRANARY_TRY(running(clone_id));
  return clone->detach(disk);
}

Status Pool::Impl::check_slots(const Attachments& attachments) const {
  const auto fits = [&](size_t wanted, size_t slots, const char* what) -> Status {
    if (wanted <= slots) return ok();
    return Error(Errc::kInvalidArgument, std::to_string(wanted) + " " + what + ", but clones of pool " +
                                             settings_.name + " have slots for " + std::to_string(slots));
  };
  GRANARY_TRY(fits(attachments.disks.size(), settings_.shape.devices.block_slots, "disks"));
  GRANARY_TRY(fits(attachments.taps.size(), settings_.shape.devices.net_slots, "taps"));
  GRANARY_TRY(fits(attachments.shares ? 1 : 0, settings_.shape.devices.fs, "file servers"));
  if (!attachments.network) return ok();
  GRANARY_TRY(fits(static_cast<size_t>(attachments.network->links_size()), settings_.shape.devices.net_slots, "links"));
  return guest::check_network(*attachments.network);
}

Result<CloneInfo> Pool::Impl::acquire(const IdentityRequest& identity, SteadyTime deadline,
                                      const Attachments& attachments) {
  const SteadyTime begin = SteadyClock::now();
  GRANARY_TRY(check_hostname(identity.hostname));
  GRANARY_TRY(check_slots(attachments));
  resources_.observer.asked();
  Result<CloneInfo> info = acquire_one(identity, deadline, attachments, begin);
  if (!info) measure(Measure::kAcquires, 1, "failed");
  return info;
}

Result<CloneInfo> Pool::Impl::acquire_one(const IdentityRequest& identity, SteadyTime deadline,
                                          const Attachments& attachments, SteadyTime begin) {
  bool waited = false;
  std::unique_lock lock(mutex_);
  for (;;) {
    if (draining_) return Error(Errc::kShuttingDown, "pool " + settings_.name);
    const bool exact = settings_.charge == Charge::kExact;
    waited = waited || exact;
    const Result<std::optional<std::string>> taken =
        exact ? restore_for_owner(lock, attachments.cgroup_parent) : take_warm();
    if (!taken) {
      ++failed_;
      last_error_ = taken.error().message();
      return taken.error();
    }
    if (const std::optional<std::string>& id = *taken) {
      lock.unlock();
      Result<CloneInfo> info = hand_over(*id, identity, attachments, begin, waited);
      work_cv_.notify_all();
      done_cv_.notify_all();
      if (info || !info.error().is(Errc::kIdentityFailed)) return info;
      lock.lock();
    } else if (!waited) {
      waited = true;
      lock.unlock();
      emit("pool-empty", "", "an acquire finds no warm clone");
      lock.lock();
      continue;
    }
    if (SteadyClock::now() >= deadline) {
      ++failed_;
      return empty_error();
    }
    if (exact && !draining_) {
      work_cv_.wait_until(lock, deadline);
      continue;
    }
    if (!warm_.empty()) continue;
    ++waiters_;
    work_cv_.notify_all();
    warm_cv_.wait_until(lock, deadline);
    --waiters_;
  }
}

std::optional<std::string> Pool::Impl::take_warm() {
  while (!warm_.empty()) {
    const std::string id = std::move(warm_.front());
    warm_.pop_front();
    Entry& entry = entries_.at(id);
    if (!entry.clone->ended()) {
      enter(entry, State::kAcquiring);
      return id;
    }
    entry.clone->flight().fail("ended while warm");
    give_up(id);
  }
  return std::nullopt;
}

// kIdentityFailed: another clone may do better. Anything else is the caller's to know.
Result<CloneInfo> Pool::Impl::hand_over(const std::string& id, const IdentityRequest& identity,
                                        const Attachments& attachments, SteadyTime begin, bool waited) {
  std::shared_ptr<Clone> clone;
  std::chrono::milliseconds identity_timeout{};
  {
    const std::lock_guard lock(mutex_);
    clone = entries_.at(id).clone;
    identity_timeout = settings_.identity_timeout;
  }
  const bool attaches = !attachments.disks.empty() || !attachments.taps.empty() || attachments.shares;
  if (const Status attached = clone->attach(attachments); !attached) {
    if (!is_refusal(attached.error())) return abandon(id, attached.error(), true);
    return refuse(id, attached.error());
  }
  if (const Status charged = settle_charge(*clone, attachments.cgroup_parent); !charged) {
    if (clone->ended()) return abandon(id, {Errc::kVmmFailed, "before the hand-over"}, attaches);
    clone->flight().fail("hand-over: " + charged.error().message());
    std::unique_lock lock(mutex_);
    discard(lock, id);
    return charged.error();
  }
  const std::string hostname = identity.hostname.empty() ? "granary-" + id.substr(0, 8) : identity.hostname;
  const SteadyTime unparked = SteadyClock::now();
  const Result<AppliedIdentity> applied = clone->hand_over(hostname, attachments.network.get(), identity_timeout);
  if (!applied && applied.error().is(Errc::kInvalidArgument)) return refuse(id, applied.error());
  if (!applied) return abandon(id, applied.error(), attaches);
  measure_since(unparked, Measure::kIdentitySeconds);
  std::unique_lock lock(mutex_);
  // Under the lock: from here on on_exited() sees to it.
  if (clone->ended() || entries_.at(id).lost) {
    lock.unlock();
    return abandon(id, {Errc::kVmmFailed, "during the hand-over"}, attaches);
  }
  clone->unwire_at_end(attachments.unwire);
  Entry& entry = entries_.at(id);
  enter(entry, State::kRunning);
  entry.info.boot_id = applied->boot_id;
  entry.info.hostname = hostname;
  entry.info.warm = !waited;
  handed_over_ = SteadyClock::now();
  entry.info.handover = handed_over_ - begin;
  ++(waited ? waited_ : hits_);
  const CloneInfo info = entry.info;
  const char* const outcome = !waited ? "hit" : entry.begun >= begin ? "cold" : "waited";
  lock.unlock();
  measure(Measure::kAcquires, 1, outcome);
  measure(Measure::kAcquireSeconds, std::chrono::duration<double>(info.handover).count());
  emit("handed-over", id, "in " + in_ms(info.handover) + ", " + outcome);
  return info;
}

// Before the guest runs again, so that whatever it touches as its owner's is charged to the owner.
Status Pool::Impl::settle_charge(Clone& clone, const std::string& cgroup_parent) {
  if (cgroup_parent.empty()) return clone.stay(growth_of(settings_.shape));
  if (clone.is_born_with_owner()) return ok();
  const SteadyTime begin = SteadyClock::now();
  const uint64_t residue = GRANARY_TRY(clone.move_below(cgroup_parent));
  measure_since(begin, Measure::kMoveSeconds);
  const std::lock_guard lock(mutex_);
  entries_.at(clone.id()).info.residue_bytes = residue;
  return ok();
}

// The caller's mistake, which every clone would refuse: this one may have a part of it.
Error Pool::Impl::refuse(const std::string& id, const Error& why) {
  std::unique_lock lock(mutex_);
  discard(lock, id);
  return why;
}

// Fail-closed: whatever step failed, the clone goes. `at_once`: it may hold files that the next one is to get.
Error Pool::Impl::abandon(const std::string& id, const Error& why, bool at_once) {
  emit("clone-failed", id, "hand-over: " + why.message());
  std::unique_lock lock(mutex_);
  entries_.at(id).clone->flight().fail("hand-over: " + why.message());
  note_failure("hand-over: " + why.message());
  if (!at_once) {
    give_up(id);
    return {Errc::kIdentityFailed, why.message()};
  }
  discard(lock, id);
  if (entries_.contains(id)) {
    return {Errc::kVmmFailed, why.message() + "; and its VMM, which has the disks and taps, could not be proven gone"};
  }
  return {Errc::kIdentityFailed, why.message()};
}

void Pool::Impl::discard(std::unique_lock<std::mutex>& lock, const std::string& id) {
  enter(entries_.at(id), State::kReclaiming);
  destroy_entry(lock, id);
}

Error Pool::Impl::empty_error() const {
  const std::string restoring = std::to_string(count(State::kRestoring) + count(State::kProbing));
  return {Errc::kPoolEmpty, "pool " + settings_.name + ": no warm clone in time; " + restoring + " restoring, " +
                                std::to_string(count(State::kRunning)) + " running of at most " +
                                std::to_string(settings_.max) + ", template " + template_state_ +
                                (last_error_.empty() ? "" : ", last error: " + last_error_)};
}

}  // namespace granary::pool
