// SPDX-License-Identifier: Apache-2.0
#include "agent/leases.h"

#include "agent/log_text.h"

namespace granary::agent {
namespace {

std::string to_text(const std::optional<NetWish>& net) {
  if (!net) return "none of the agent's networks";
  std::string rules;
  for (const std::string& rule : net->allow) rules += (rules.empty() ? ", allowing " : ", ") + rule;
  return "the agent's network" + rules;
}

}  // namespace

LeaseTable::Claim::~Claim() {
  if (table_ != nullptr) table_->finish(owner_id_, std::nullopt);
}

bool LeaseTable::Claim::commit(Lease lease) {
  LeaseTable* table = std::exchange(table_, nullptr);
  return table->finish(owner_id_, std::move(lease));
}

bool LeaseTable::restore(Lease lease) {
  {
    const std::lock_guard lock(mutex_);
    if (!owners_.try_emplace(lease.owner_id, std::nullopt).second) return false;
  }
  const std::string owner_id = lease.owner_id;
  return finish(owner_id, std::move(lease));
}

bool LeaseTable::finish(const std::string& owner_id, std::optional<Lease> lease) {
  bool kept = false;
  {
    const std::lock_guard lock(mutex_);
    kept = lease && !gone_.contains(lease->clone.id);
    if (kept) {
      clone_owner_[lease->clone.id] = owner_id;
      owners_[owner_id] = std::move(lease);
    } else {
      owners_.erase(owner_id);
    }
  }
  changed_.notify_all();
  return kept;
}

Result<LeaseTable::Outcome> LeaseTable::begin(const std::string& owner_id, const std::string& pool,
                                              pool::SteadyTime deadline, const std::vector<DiskWish>& disks,
                                              const std::string& cgroup_parent, const std::string& netns,
                                              const std::optional<NetWish>& net) {
  std::unique_lock lock(mutex_);
  const auto settled = [&] {
    const auto at = owners_.find(owner_id);
    return at == owners_.end() || at->second.has_value();
  };
  if (!changed_.wait_until(lock, deadline, settled)) {
    return Error(Errc::kDeadlineExceeded, "owner " + owner_id + ": another acquire for it is still waiting");
  }
  Outcome outcome;
  if (const auto at = owners_.find(owner_id); at != owners_.end()) {
    if (at->second->pool != pool) {
      return Error(Errc::kInvalidArgument, "owner " + owner_id + " holds clone " + at->second->clone.id + " of pool " +
                                               at->second->pool + ", not of " + pool + "; release it first");
    }
    if (at->second->disks != disks) {
      return Error(Errc::kInvalidArgument, "owner " + owner_id + " holds clone " + at->second->clone.id + " with " +
                                               to_text(at->second->disks) + ", not with " + to_text(disks) +
                                               "; release it first");
    }
    const auto other = [&](const std::string& what, const std::string& has, const std::string& asked,
                           const char* none) -> Error {
      const auto shown = [&](const std::string& text) {
        return text.empty() ? none : ascii(one_line(text.substr(0, 200)));
      };
      return {Errc::kInvalidArgument, "owner " + owner_id + " holds clone " + at->second->clone.id + " in " + what +
                                          shown(has) + ", not in " + shown(asked) + "; release it first"};
    };
    if (at->second->cgroup_parent != cgroup_parent) {
      return other("cgroup ", at->second->cgroup_parent, cgroup_parent, "the pool's part");
    }
    if (at->second->netns != netns) return other("network namespace ", at->second->netns, netns, "none");
    if (at->second->net != net) {
      return other("", to_text(at->second->net), to_text(net), "");
    }
    outcome.held = at->second;
    return outcome;
  }
  owners_[owner_id] = std::nullopt;
  outcome.claim.emplace(Claim(*this, owner_id));
  return outcome;
}

std::optional<Lease> LeaseTable::of_clone(const std::string& clone_id) const {
  const std::lock_guard lock(mutex_);
  const auto at = clone_owner_.find(clone_id);
  return at == clone_owner_.end() ? std::nullopt : owners_.at(at->second);
}

std::optional<Lease> LeaseTable::of_owner(const std::string& owner_id) const {
  const std::lock_guard lock(mutex_);
  const auto at = owners_.find(owner_id);
  return at == owners_.end() ? std::nullopt : at->second;
}

std::vector<Lease> LeaseTable::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<Lease> leases;
  for (const auto& [owner, lease] : owners_) {
    if (lease) leases.push_back(*lease);
  }
  return leases;
}

bool LeaseTable::end(const std::string& clone_id, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (gone_.emplace(clone_id, reason).second) gone_order_.push_back(clone_id);
  if (gone_order_.size() > kMaxGone) {
    gone_.erase(gone_order_.front());
    gone_order_.pop_front();
  }
  const auto at = clone_owner_.find(clone_id);
  if (at == clone_owner_.end()) return false;
  owners_.erase(at->second);
  clone_owner_.erase(at);
  return true;
}

std::optional<std::string> LeaseTable::gone(const std::string& clone_id) const {
  const std::lock_guard lock(mutex_);
  const auto at = gone_.find(clone_id);
  return at == gone_.end() ? std::nullopt : std::optional(at->second);
}

}  // namespace granary::agent
