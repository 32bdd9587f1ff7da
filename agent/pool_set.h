// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "agent/adaptive_sizing.h"
#include "agent/audit.h"
#include "agent/cgroup.h"
#include "agent/config.h"
#include "agent/event_feed.h"
#include "agent/flight_log.h"
#include "agent/journal.h"
#include "agent/leases.h"
#include "agent/networks.h"
#include "agent/own_network.h"
#include "agent/pod_shape.h"
#include "agent/shims.h"
#include "agent/sizing.h"
#include "vmpool/pool/pool.h"
#include "vmpool/pool/spawner_client.h"
#include "vmpool/pool/template_store.h"

namespace granary::agent {

// What one node's agent keeps: its pools, and who holds which clone. Everything the API offers, without gRPC. Methods
// from any thread.
class PoolSet {
 public:
  struct Resources {
    pool::SpawnerClient& spawner;
    pool::TemplateStore& templates;
    std::string host_fingerprint;
    Cgroups* groups;  // nullptr: VMMs stay in the spawner's cgroup
    Journal& journal;
    Networks& networks;
    OwnNetwork* own_network;  // nullptr: there is none
    Shims& shims;
    EventFeed& events;
    FlightLog& flights;
    std::function<pool::Measured(const std::string& pool)> measure;  // called for each pool before it starts
    std::string run_dir;                                             // holds the per-clone sockets
    std::string learned_path = {};  // where adaptive pools keep what they learn; empty: nowhere
  };
  struct Wish {
    std::string pool;  // empty: the smallest that has room for what it needs, the first configured if it needs nothing
    std::string owner_id;
    std::string hostname;
    pool::SteadyTime deadline;
    std::vector<DiskWish> disks = {};
    std::string cgroup_parent = {};  // the pod's cgroup, whose the clone's memory is to be; empty: the pool's
    std::string netns = {};  // the pod's network namespace, whose place the clone takes
    std::optional<NetWish> net = {};  // a card in the agent's own network; with neither it has no network
    PodNeeds needs = {};
    bool shares = false;  // a file server for its containers, where the pool's shape has the device
    bool forward_loopback = false;  // what programs in `netns` dial on its loopback goes to the pod's shim
  };
  struct TemplateUse {
    pool::TemplateInfo info;
    std::vector<std::string> used_by;
  };

  struct Configuration {
    uint64_t generation = 0;  // 1: what the agent was started with
    std::string hash;         // Config::hash
    std::string refused;      // why the newest file is not the one that runs; empty when it is
  };

  // Starts every pool of a checked configuration; the first error of any ends those already started.
  static Result<std::unique_ptr<PoolSet>> start(const Config& config, Resources resources);
  // As finish().
  ~PoolSet();

  // Makes a checked configuration the running one, without a held clone noticing. Limits change in place. A pool that
  // is configured no longer, or with another shape, template or devices, retires: nobody gets a clone of it any more,
  // idle ones are reclaimed, and it goes with its last held one. With the first error of a new pool nothing has
  // changed.
  Status apply(const Config& config);
  // Why the newest file is refused, or "" when it is not. True: that is news.
  bool note_refused(const std::string& why);
  [[nodiscard]] Configuration configuration() const;
  // Clones of retired pools.
  [[nodiscard]] uint32_t retired_clones() const;

  // Lets every pool keep as many idle clones as its settings or its policy, the budgets and the pressure permit
  // (sizing.h); what is beyond that is reclaimed, which a "shed" event tells unless it is the policy's wish. Call it
  // once a second: only here policies decide anew, which a "pool-wants" event tells.
  void size_idle(PressureLevel level);
  // The same because the pools have changed, not the pressure: it sheds nothing once more, and policies stay as they
  // are.
  void resize_idle();
  // What adaptive pools have learned, for the next agent; a failure is logged.
  void save_learned() const;
  [[nodiscard]] bool has_budgets() const;
  [[nodiscard]] uint64_t min_available() const;
  // Logs and publishes something about the agent, or about a pool.
  void tell(const std::string& kind, const std::string& pool, const std::string& text);

  // Takes up a clone whose explicit lease an earlier agent gave. One of a pool that is configured no longer goes to the
  // first pool, which reclaims it when it is released. Errors of Pool::adopt(): then it counts as ended.
  Status adopt(const JournalClone& clone);
  // Remembers why a clone that an earlier agent leased is gone.
  void remember_ended(const std::string& clone_id, const std::string& reason) { leases_.end(clone_id, reason); }

  // kPoolUnknown, kPoolEmpty, kShuttingDown, kInvalidArgument (owner or host name), what open_disks(),
  // Cgroups::find_pod(), Networks::wire() and OwnNetwork::take() say, kNotSupported for a cgroup or an own network where
  // there are none; the same owner gets
  // the same clone again, and is refused when it asks for other disks, another cgroup or another network.
  Result<Lease> acquire(const Wish& wish);
  // Like acquire(), but an owner that holds a clone already is refused: for a lease that ends with its call.
  Result<Lease> acquire_new(const Wish& wish);
  // True: was held and is reclaimed; false: was released or ended before. kCloneUnknown.
  Result<bool> release(const std::string& clone_id);
  Result<bool> release_owner(const std::string& owner_id);
  // Ends a lease now and reclaims its clone on another thread: for callers that must not wait.
  void release_later(const std::string& clone_id, const std::string& reason);

  // A disk of a running clone: checked and locked as open_disks() does, whoever opened it. kCloneGone, kCloneUnknown, errors of
  // Pool::attach().
  Result<uint32_t> attach(const std::string& clone_id, const pool::Disk& disk);
  Status detach(const std::string& clone_id, uint32_t disk);

  // The lease of a running clone; kCloneGone with the reason, kCloneUnknown.
  [[nodiscard]] Result<Lease> running(const std::string& clone_id) const;
  [[nodiscard]] std::vector<pool::PoolStatus> status() const;
  // Of one pool, or of all for an empty name, retired ones too; kPoolUnknown.
  [[nodiscard]] Result<std::vector<pool::CloneStatus>> clones(const std::string& pool) const;
  [[nodiscard]] std::optional<Lease> lease_of_owner(const std::string& owner_id) const { return leases_.of_owner(owner_id); }
  [[nodiscard]] std::optional<Lease> lease_of(const std::string& clone_id) const { return leases_.of_clone(clone_id); }
  [[nodiscard]] std::vector<std::pair<std::string, pool::PoolMemory>> memory() const;
  // What these leases' clones have done in the agent's own network, by address.
  [[nodiscard]] std::map<std::string, OwnNetwork::Use> network_use(const std::vector<Lease>& leases) const;
  // Of the clones, those that failed included, whose id starts so; the newest failures for an empty one. kCloneUnknown.
  [[nodiscard]] Result<std::vector<pool::FlightRecord>> flights(const std::string& clone_id) const;
  [[nodiscard]] Result<std::string> console(const std::string& clone_id) const;

  [[nodiscard]] Result<std::vector<TemplateUse>> templates() const;
  // The key of the pool's template. Built anew when `force`, or when none is ready.
  Result<std::string> build_template(const std::string& pool, bool force,
                                     const std::function<void(const std::string&)>& progress);
  // EBUSY while a pool uses it; kInvalidArgument for what is no key; false: was absent.
  Result<bool> remove_template(const std::string& key);

  // Called whenever a lease ends, for whatever reason; any thread. Add them before the first acquire().
  void on_lease_ended(std::function<void(const std::string& clone_id, const std::string& reason)> callback) {
    lease_ended_.push_back(std::move(callback));
  }

  // As Pool::spawner_replaced(), for all.
  void spawner_replaced();

  // What the journal, the host and this object do not agree on, a line each: empty when all is in order. Takes up to a
  // second when something is not, to tell it from what is just being made or reclaimed.
  [[nodiscard]] Result<std::vector<std::string>> audit() const;

  // No more acquires; idle clones are reclaimed. Held clones run on.
  void drain();
  // Ends the leases that are bound to a call and reclaims every idle clone, then returns. Clones with an explicit lease
  // run on: the next agent adopts them.
  void finish(const std::string& reason);

 private:
  struct Job {
    std::string pool;
    std::string clone_id;
  };
  explicit PoolSet(Resources resources) : resources_(std::move(resources)), adaptive_(resources_.learned_path) {}
  // Shared, because a call may still use a pool that was retired meanwhile.
  struct Member {
    std::string name;
    std::shared_ptr<pool::Pool> pool;
  };
  [[nodiscard]] Result<Member> make(const pool::PoolSettings& settings);
  [[nodiscard]] pool::CloneGroups groups() const;
  [[nodiscard]] pool::CloneJournal journal(const std::string& pool) const;
  [[nodiscard]] pool::PoolObserver observer(const std::string& pool);
  // The configured one; the first for an empty name.
  [[nodiscard]] Result<Member> find(const std::string& name) const;
  [[nodiscard]] Result<Member> choose(const Wish& wish) const;
  [[nodiscard]] std::vector<Member> members() const;      // as configured
  [[nodiscard]] std::vector<Member> all_members() const;  // and the retired ones
  Result<Lease> take(LeaseTable::Claim claim, Member member, Lease lease, const Wish& wish);
  Result<pool::CloneInfo> hand_over(Member member, const Wish& wish, std::string& address);
  Status wire(const Wish& wish, const pool::PoolSettings& settings, pool::Attachments& into,
              std::string& address) const;
  [[nodiscard]] std::function<Status()> unwiring(const std::string& netns, const std::string& address) const;
  void give_up_network(const std::string& netns, const std::string& address) const;
  [[nodiscard]] Result<std::string> find_pod(const std::string& cgroup_parent) const;
  void keep_taps_ready() const;
  void limit_memory();
  void forget_policies(const Config& config);
  Result<bool> reclaim(const std::string& clone_id);
  void size_by(PressureLevel level, bool decide);
  [[nodiscard]] PoolDemand demand_of(const pool::PoolSettings& settings, const pool::PoolUsage& usage, bool decide);
  void permit(const Member& member, const PoolDemand& demand, const pool::PoolUsage& usage, PoolTarget target,
              bool is_short);
  void end_retired(const std::stop_token& stop);
  [[nodiscard]] Result<AuditSample> sample() const;
  bool end_lease(const std::string& clone_id, const std::string& reason);
  void post(Job job);
  void reclaim_posted(const std::stop_token& stop);

  Resources resources_;
  LeaseTable leases_;
  std::vector<std::function<void(const std::string&, const std::string&)>> lease_ended_;

  mutable std::mutex pools_mutex_;  // never held across a call of a pool
  std::condition_variable_any retired_changed_;
  std::vector<Member> pools_;  // in the configuration's order
  std::vector<Member> retired_;
  bool clone_went_ = false;  // perhaps the last of a retired pool
  Configuration configuration_;
  std::optional<uint64_t> memory_budget_;
  uint64_t min_available_ = 0;
  bool draining_ = false;

  mutable std::mutex sizing_mutex_;  // one sizing at a time
  AdaptiveSizing adaptive_;          // but what pools tell it
  PressureLevel level_ = PressureLevel::kNone;

  std::mutex jobs_mutex_;
  std::condition_variable_any jobs_changed_;
  std::deque<Job> jobs_;
  std::jthread reclaimer_;
  std::jthread retirer_;
};

}  // namespace granary::agent
