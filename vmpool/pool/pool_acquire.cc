// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

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

}  // namespace

Result<CloneInfo> Pool::Impl::acquire(const IdentityRequest& identity, SteadyTime deadline) {
  const SteadyTime begin = SteadyClock::now();
  GRANARY_TRY(check_hostname(identity.hostname));
  bool waited = false;
  std::unique_lock lock(mutex_);
  for (;;) {
    if (draining_) return Error(Errc::kShuttingDown, "pool " + settings_.name);
    if (const std::optional<std::string> id = take_warm()) {
      lock.unlock();
      Result<CloneInfo> info = hand_over(*id, identity, begin, waited);
      work_cv_.notify_all();
      done_cv_.notify_all();
      if (info) return info;
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
      entry.state = State::kAcquiring;
      return id;
    }
    give_up(id);
  }
  return std::nullopt;
}

Result<CloneInfo> Pool::Impl::hand_over(const std::string& id, const IdentityRequest& identity, SteadyTime begin,
                                        bool waited) {
  std::shared_ptr<Clone> clone;
  {
    const std::lock_guard lock(mutex_);
    clone = entries_.at(id).clone;
  }
  const std::string hostname = identity.hostname.empty() ? "granary-" + id.substr(0, 8) : identity.hostname;
  const Result<AppliedIdentity> applied = clone->hand_over(hostname, settings_.identity_timeout);
  std::unique_lock lock(mutex_);
  Entry& entry = entries_.at(id);
  if (!applied || clone->ended()) {
    const std::string why = applied ? "the VMM ended during the hand-over" : applied.error().message();
    note_failure("hand-over: " + why);
    give_up(id);
    lock.unlock();
    emit("clone-failed", id, "hand-over: " + why);
    return Error(Errc::kIdentityFailed, why);
  }
  entry.state = State::kRunning;
  entry.info.boot_id = applied->boot_id;
  entry.info.hostname = hostname;
  entry.info.warm = !waited;
  entry.info.handover = SteadyClock::now() - begin;
  ++(waited ? waited_ : hits_);
  const CloneInfo info = entry.info;
  lock.unlock();
  emit("handed-over", id,
       std::to_string(std::chrono::duration_cast<std::chrono::microseconds>(info.handover).count()) + " us");
  return info;
}

Error Pool::Impl::empty_error() const {
  const std::string restoring = std::to_string(count(State::kRestoring) + count(State::kProbing));
  return {Errc::kPoolEmpty, "pool " + settings_.name + ": no warm clone in time; " + restoring + " restoring, " +
                                std::to_string(count(State::kRunning)) + " running of at most " +
                                std::to_string(settings_.max) + ", template " + template_state_ +
                                (last_error_.empty() ? "" : ", last error: " + last_error_)};
}

}  // namespace granary::pool
