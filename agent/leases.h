// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "agent/disks.h"
#include "agent/net_wish.h"
#include "vmpool/pool/pool.h"

namespace granary::agent {

// Who holds which clone.
struct Lease {
  std::string owner_id;
  std::string pool;
  pool::CloneInfo clone;
  std::vector<DiskWish> disks = {};
  std::string cgroup_parent = {};  // as it was asked for
  std::string netns = {};          // the path of the network namespace whose place the clone takes
  std::optional<NetWish> net = {};  // it has a card in the agent's own network
  std::string address = {};         // and this address there
  bool bound_to_call = false;      // ends with the Hold call that took it; otherwise explicit: ends with Release

  bool operator==(const Lease&) const = default;
};

// Owner -> clone, and what is known of clones that are gone. Makes Acquire idempotent: of several calls with one
// owner_id the first takes a clone and the others wait for it and get the same one. Thread-safe.
class LeaseTable {
 public:
  // The right, and the duty, to take a clone for an owner. Dropped without commit(), the owner is free again and one of
  // those who wait gets its turn.
  class Claim {
   public:
    Claim(Claim&& other) noexcept
        : table_(std::exchange(other.table_, nullptr)), owner_id_(std::move(other.owner_id_)) {}
    Claim& operator=(Claim&&) = delete;
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;
    ~Claim();
    // False: the clone has ended meanwhile (gone() says why), the owner holds nothing.
    [[nodiscard]] bool commit(Lease lease);

   private:
    friend class LeaseTable;
    Claim(LeaseTable& table, std::string owner_id) : table_(&table), owner_id_(std::move(owner_id)) {}
    LeaseTable* table_;
    std::string owner_id_;
  };
  struct Outcome {
    std::optional<Lease> held;   // the owner has a clone already
    std::optional<Claim> claim;  // or: take one
  };

  // kInvalidArgument when the owner holds a clone of another pool or with other disks, another cgroup or another
  // network (compared as they were asked for); kDeadlineExceeded when another call for the same owner has not
  // finished by the deadline.
  Result<Outcome> begin(const std::string& owner_id, const std::string& pool, pool::SteadyTime deadline,
                        const std::vector<DiskWish>& disks = {}, const std::string& cgroup_parent = "",
                        const std::string& netns = "", const std::optional<NetWish>& net = {});

  // A lease that an earlier agent gave; false: its owner holds a clone already, or the clone has ended.
  bool restore(Lease lease);

  [[nodiscard]] std::optional<Lease> of_clone(const std::string& clone_id) const;
  [[nodiscard]] std::optional<Lease> of_owner(const std::string& owner_id) const;
  [[nodiscard]] std::vector<Lease> all() const;

  // Ends the lease of a clone and remembers why the clone is gone ("released", "ended: panic …"). False: there was
  // none; the reason is kept only if none is known yet.
  bool end(const std::string& clone_id, const std::string& reason);
  // Why a clone is gone; nothing for one that never was here or is long forgotten (the newest 4096 are kept).
  [[nodiscard]] std::optional<std::string> gone(const std::string& clone_id) const;

 private:
  static constexpr size_t kMaxGone = 4096;
  bool finish(const std::string& owner_id, std::optional<Lease> lease);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::optional<Lease>> owners_;  // nullopt: a claim is open
  std::map<std::string, std::string> clone_owner_;
  std::map<std::string, std::string> gone_;
  std::deque<std::string> gone_order_;
};

}  // namespace granary::agent
