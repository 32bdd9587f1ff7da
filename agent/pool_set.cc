// SPDX-License-Identifier: Apache-2.0
#include "agent/pool_set.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>

#include "agent/cgroup_path.h"
#include "agent/log_text.h"
#include "agent/shim_watch.h"
#include "vmpool/base/fault.h"

namespace granary::agent {
namespace {

constexpr size_t kMaxOwnerBytes = 128;
constexpr size_t kMaxHostnameBytes = 63;  // one label; also what Linux lets sethostname(2) take

// What all looks show is not in passing.
constexpr int kAuditLooks = 4;
constexpr std::chrono::milliseconds kAuditPause{250};

bool printable(unsigned char c) { return c > 0x20 && c < 0x7f; }
bool in_hostname(unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '.'; }

Status check_wish(const PoolSet::Wish& wish) {
  if (wish.owner_id.empty() || wish.owner_id.size() > kMaxOwnerBytes ||
      !std::ranges::all_of(wish.owner_id, printable)) {
    return Error(Errc::kInvalidArgument, "owner_id of " + std::to_string(wish.owner_id.size()) +
                                             " bytes: give 1 to 128 printable characters without blanks");
  }
  const std::string& host = wish.hostname;
  if (host.size() > kMaxHostnameBytes || !std::ranges::all_of(host, in_hostname) || host.starts_with('-')) {
    return Error(Errc::kInvalidArgument,
                 "hostname of " + std::to_string(host.size()) + " bytes: give at most 63 of a-z, A-Z, 0-9, - and .");
  }
  if (wish.net && !wish.netns.empty()) {
    return Error(Errc::kInvalidArgument, "both netns and own_network; a clone has one network");
  }
  if (wish.net) GRANARY_TRY(netplumb::parse_allow_rules(wish.net->allow));
  return ok();
}

bool is_template_key(const std::string& key) {
  return key.size() == 64 && key.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Of records that only spare the next agent work: what they tell it would find out by looking.
void log_if_failed(const Status& written) {
  if (!written) spdlog::error("journal write failed error=\"{}\"", log_value(written.error().message()));
}

int64_t unix_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

void log_event(const pool::Event& event) {
  const bool bad = event.kind.ends_with("-failed");
  spdlog::log(bad ? spdlog::level::warn : spdlog::level::info, "{} pool={} clone={} text=\"{}\"", event.kind,
              event.pool, event.clone_id.empty() ? "-" : event.clone_id, log_value(event.text));
}

}  // namespace

Result<std::unique_ptr<PoolSet>> PoolSet::start(const Config& config, Resources resources) {
  std::unique_ptr<PoolSet> set(new PoolSet(std::move(resources)));
  GRANARY_TRY(set->apply(config));
  set->reclaimer_ = std::jthread([raw = set.get()](const std::stop_token& stop) { raw->reclaim_posted(stop); });
  set->retirer_ = std::jthread([raw = set.get()](const std::stop_token& stop) { raw->end_retired(stop); });
  return set;
}

PoolSet::~PoolSet() {
  finish("the agent ends");
  reclaimer_ = {};
  retirer_ = {};
  // Pools end before the leases that their callbacks write to.
  pools_.clear();
  retired_.clear();
}

pool::CloneGroups PoolSet::groups() const {
  Cgroups* const groups = resources_.groups;
  if (groups == nullptr) {
    return {.create = [](const std::string&) -> Result<Fd> { return Fd(); },
            .add = [](const std::string&, int32_t) { return ok(); },
            .remove = [](const std::string&) { return ok(); }};
  }
  return {.create = [groups](const std::string& name) { return groups->create(name); },
          .add = [groups](const std::string& name, int32_t pid) { return groups->add(name, pid); },
          .remove = [groups](const std::string& name) -> Status {
            GRANARY_TRY(groups->remove(name));
            return ok();
          },
          .memory_bytes = [groups](const std::string& name) { return groups->memory_bytes(name); },
          .reserve = [groups](const std::string& name, uint64_t bytes) { return groups->reserve(name, bytes); }};
}

pool::CloneJournal PoolSet::journal(const std::string& pool) const {
  Journal* const journal = &resources_.journal;
  return {.creating = [journal, pool](const std::string& id,
                                      const std::string& group) { return journal->creating(id, pool, group); },
          .spawned = [journal](const std::string& id, VmId vm, int32_t pid,
                               const std::string& socket_path) { return journal->spawned(id, vm, pid, socket_path); },
          .moving = [journal](const std::string& id, const std::string& group) { return journal->moving(id, group); },
          .gone = [journal](const std::string& id) { log_if_failed(journal->gone(id)); }};
}

pool::PoolObserver PoolSet::observer(const std::string& pool) {
  FlightLog* const flights = &resources_.flights;
  return {.measured =
              [this, pool, measured = resources_.measure(pool)](pool::Measure what, double value, const char* label) {
                if (what == pool::Measure::kRefillSeconds) adaptive_.refilled(pool, value);
                measured(what, value, label);
              },
          .asked = [this, pool] { adaptive_.asked(pool, std::chrono::steady_clock::now()); },
          .clone_failed =
              [flights](const pool::FlightRecord& record) {
                flights->add(record);
                spdlog::warn("flight record {}", to_log_line(record));
              }};
}

Status PoolSet::adopt(const JournalClone& clone) {
  Lease lease = *clone.lease;
  auto member = find(lease.pool);
  if (!member) {
    member = find("");
    spdlog::warn("pool is configured no longer, its clone goes to another pool={} clone={} to={}", lease.pool, clone.id,
                 member->name);
    lease.pool = lease.clone.pool = member->name;
    log_if_failed(resources_.journal.leased(lease, clone.leased_unix_ns));
  }
  const Status adopted =
      member->pool->adopt(lease.clone, clone.group, clone.owners_group, unwiring(lease.netns, lease.address));
  if (!adopted) give_up_network(lease.netns, lease.address);
  GRANARY_TRY(adopted);
  (void)leases_.restore(std::move(lease));
  return ok();
}

Result<PoolSet::Member> PoolSet::make(const pool::PoolSettings& settings) {
  EventFeed* const events = &resources_.events;
  pool::PoolResources resources{
      .spawner = resources_.spawner,
      .templates = resources_.templates,
      .vmm_build_id = [spawner = &resources_.spawner] { return control::text_of(spawner->hello().vmm_build_id); },
      .host_fingerprint = resources_.host_fingerprint,
      .groups = groups(),
      .journal = journal(settings.name),
      .on_event =
          [events](const pool::Event& event) {
            log_event(event);
            events->publish(event);
          },
      .observer = observer(settings.name)};
  std::shared_ptr<pool::Pool> pool = GRANARY_TRY(pool::Pool::start(settings, std::move(resources)));
  pool->on_clone_ended([this, name = settings.name](const std::string& clone_id, EndState state,
                                                    const std::string& reason) {
    end_lease(clone_id, std::string("ended: ") + to_string(state) + (reason.empty() ? "" : ", " + one_line(reason)));
    post({.pool = name, .clone_id = clone_id});
  });
  return Member{settings.name, std::move(pool)};
}

Result<PoolSet::Member> PoolSet::find(const std::string& name) const {
  std::string known;
  for (const Member& member : members()) {
    if (member.name == name || name.empty()) return member;
    known += (known.empty() ? "" : ", ") + member.name;
  }
  return Error(Errc::kPoolUnknown, "pool \"" + one_line(name.substr(0, 80)) + "\"; configured: " + known);
}

Result<PoolSet::Member> PoolSet::choose(const Wish& wish) const {
  const auto shape_of = [](const Member& member) {
    const pool::Shape& shape = member.pool->settings().shape;
    return PoolShape{member.name, shape.memory_bytes, shape.vcpus};
  };
  if (!wish.pool.empty()) {
    Member member = GRANARY_TRY(find(wish.pool));
    GRANARY_TRY(check_fit(shape_of(member), wish.needs));
    return member;
  }
  std::vector<PoolShape> shapes;
  for (const Member& member : members()) shapes.push_back(shape_of(member));
  if (shapes.empty()) return find("");
  return find(GRANARY_TRY(smallest_fit(shapes, wish.needs)));
}

Result<Lease> PoolSet::acquire(const Wish& wish) {
  GRANARY_TRY(check_wish(wish));
  const Member member = GRANARY_TRY(choose(wish));
  LeaseTable::Outcome outcome = GRANARY_TRY(
      leases_.begin(wish.owner_id, member.name, wish.deadline, wish.disks, wish.cgroup_parent, wish.netns, wish.net));
  if (outcome.held) return *std::move(outcome.held);
  return take(*std::move(outcome.claim), member, {.owner_id = wish.owner_id, .pool = member.name, .clone = {}}, wish);
}

Result<Lease> PoolSet::acquire_new(const Wish& wish) {
  GRANARY_TRY(check_wish(wish));
  const Member member = GRANARY_TRY(choose(wish));
  LeaseTable::Outcome outcome = GRANARY_TRY(
      leases_.begin(wish.owner_id, member.name, wish.deadline, wish.disks, wish.cgroup_parent, wish.netns, wish.net));
  if (outcome.held) {
    return Error(Errc::kInvalidArgument, "owner " + wish.owner_id + " holds clone " + outcome.held->clone.id +
                                             " already; release it first or choose another owner_id");
  }
  return take(*std::move(outcome.claim), member,
              {.owner_id = wish.owner_id, .pool = member.name, .clone = {}, .bound_to_call = true}, wish);
}

Result<std::string> PoolSet::find_pod(const std::string& cgroup_parent) const {
  if (cgroup_parent.empty()) return std::string();
  if (resources_.groups != nullptr) return resources_.groups->find_pod(cgroup_parent);
  GRANARY_TRY(parse_cgroup_parent(cgroup_parent));
  return Error(Errc::kNotSupported,
               "cgroup_parent " + cgroup_parent + ": granaryd runs without cgroups, its log says why");
}

// A pool may retire while its caller waits: then the one that took over its name serves.
Result<pool::CloneInfo> PoolSet::hand_over(Member member, const Wish& wish, std::string& address) {
  for (;;) {
    // All of it before the clone is taken: a mistake costs none. Our descriptors are closed when it has its own.
    const pool::PoolSettings settings = member.pool->settings();
    const control::DeviceSet& devices = settings.shape.devices;
    pool::Attachments attachments{.disks = GRANARY_TRY(open_disks(wish.disks, devices.block_slots)),
                                  .shares = wish.shares && devices.fs != 0,
                                  .cgroup_parent = GRANARY_TRY(find_pod(wish.cgroup_parent))};
    GRANARY_TRY(wire(wish, settings, attachments, address));
    auto clone = member.pool->acquire({.hostname = wish.hostname}, wish.deadline, attachments);
    if (clone) return clone;
    attachments.taps.clear();
    give_up_network(wish.netns, address);
    address.clear();
    if (!clone.error().is(Errc::kShuttingDown)) return clone;
    Member successor = GRANARY_TRY(find(member.name));
    if (successor.pool == member.pool) return clone;
    member = std::move(successor);
  }
}

Result<Lease> PoolSet::take(LeaseTable::Claim claim, Member member, Lease lease, const Wish& wish) {
  lease.disks = wish.disks;
  lease.cgroup_parent = wish.cgroup_parent;
  lease.netns = wish.netns;
  lease.net = wish.net;
  lease.clone = GRANARY_TRY(hand_over(std::move(member), wish, lease.address));
  const std::string& id = lease.clone.id;
  fault_point("acquire.handed-over");
  // What is not in the journal would be ended at the next start.
  if (const Status written = resources_.journal.leased(lease, unix_ns()); !written) {
    post({.pool = lease.pool, .clone_id = id});
    return Error(written.error());
  }
  fault_point("acquire.journalled");
  if (!claim.commit(lease)) {
    return Error(Errc::kCloneGone, "clone " + id + " right after its hand-over, " + leases_.gone(id).value_or("ended"));
  }
  return lease;
}

Result<bool> PoolSet::release(const std::string& clone_id) {
  const auto lease = leases_.of_clone(clone_id);
  if (!lease) {
    if (leases_.gone(clone_id)) return false;
    return Error(Errc::kCloneUnknown, "clone " + one_line(clone_id.substr(0, 80)) + "; `granaryctl ls` lists them");
  }
  if (!end_lease(clone_id, "released")) return false;
  return reclaim(clone_id);
}

// Clone ids tell nothing of pools, and a name may have had several.
Result<bool> PoolSet::reclaim(const std::string& clone_id) {
  bool was_there = false;
  for (const Member& member : all_members()) {
    was_there = GRANARY_TRY(member.pool->release(clone_id));
    if (was_there) break;
  }
  const std::lock_guard lock(pools_mutex_);
  clone_went_ = true;
  retired_changed_.notify_all();
  return was_there;
}

Result<uint32_t> PoolSet::attach(const std::string& clone_id, const pool::Disk& disk) {
  GRANARY_TRY(running(clone_id));
  GRANARY_TRY(take_disk(disk));
  for (const Member& member : all_members()) {
    auto attached = member.pool->attach(clone_id, disk);
    if (attached || !attached.error().is(Errc::kCloneUnknown)) return attached;
  }
  return Error(Errc::kCloneGone, "clone " + clone_id);
}

Status PoolSet::detach(const std::string& clone_id, uint32_t disk) {
  GRANARY_TRY(running(clone_id));
  for (const Member& member : all_members()) {
    Status detached = member.pool->detach(clone_id, disk);
    if (detached || !detached.error().is(Errc::kCloneUnknown)) return detached;
  }
  return Error(Errc::kCloneGone, "clone " + clone_id);
}

Result<bool> PoolSet::release_owner(const std::string& owner_id) {
  const auto lease = leases_.of_owner(owner_id);
  if (!lease) return false;
  return release(lease->clone.id);
}

void PoolSet::release_later(const std::string& clone_id, const std::string& reason) {
  const auto lease = leases_.of_clone(clone_id);
  if (lease && end_lease(clone_id, reason)) post({.pool = lease->pool, .clone_id = clone_id});
}

bool PoolSet::end_lease(const std::string& clone_id, const std::string& reason) {
  // Before the clone is killed, and also when the lease was not committed yet.
  log_if_failed(resources_.journal.ended(clone_id, reason));
  fault_point("release.journalled");
  const bool ended = leases_.end(clone_id, reason);
  if (!ended) return false;
  for (const auto& tell : lease_ended_) tell(clone_id, reason);
  return true;
}

void PoolSet::post(Job job) {
  {
    const std::lock_guard lock(jobs_mutex_);
    jobs_.push_back(std::move(job));
  }
  jobs_changed_.notify_one();
}

void PoolSet::reclaim_posted(const std::stop_token& stop) {
  std::unique_lock lock(jobs_mutex_);
  while (jobs_changed_.wait(lock, stop, [&] { return !jobs_.empty(); })) {
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    const auto released = reclaim(job.clone_id);
    if (!released)
      spdlog::error("reclaim failed pool={} clone={} error=\"{}\"", job.pool, job.clone_id,
                    log_value(released.error().message()));
    lock.lock();
  }
}

Result<Lease> PoolSet::running(const std::string& clone_id) const {
  if (auto lease = leases_.of_clone(clone_id)) return *std::move(lease);
  const std::string shown = "clone " + one_line(clone_id.substr(0, 80));
  if (const auto reason = leases_.gone(clone_id)) return Error(Errc::kCloneGone, shown + ", " + *reason);
  return Error(Errc::kCloneUnknown, shown + "; `granaryctl ls` lists them");
}

std::vector<pool::PoolStatus> PoolSet::status() const {
  std::vector<pool::PoolStatus> all;
  for (const Member& member : members()) all.push_back(member.pool->status());
  return all;
}

Result<std::vector<pool::CloneStatus>> PoolSet::clones(const std::string& name) const {
  std::vector<pool::CloneStatus> all;
  bool known = name.empty();
  for (const Member& member : all_members()) {
    if (!name.empty() && member.name != name) continue;
    known = true;
    for (pool::CloneStatus& clone : member.pool->clones()) all.push_back(std::move(clone));
  }
  if (!known) GRANARY_TRY(find(name));
  return all;
}

std::vector<std::pair<std::string, pool::PoolMemory>> PoolSet::memory() const {
  std::vector<std::pair<std::string, pool::PoolMemory>> all;
  for (const Member& member : all_members()) all.emplace_back(member.name, member.pool->memory());
  return all;
}

Result<std::vector<pool::FlightRecord>> PoolSet::flights(const std::string& clone_id) const {
  std::vector<pool::FlightRecord> found = resources_.flights.failures();
  if (clone_id.empty()) return found;
  for (const Member& member : all_members()) {
    for (pool::FlightRecord& record : member.pool->flights()) found.push_back(std::move(record));
  }
  std::erase_if(found, [&](const pool::FlightRecord& record) { return !record.clone_id.starts_with(clone_id); });
  if (!found.empty()) return found;
  return Error(Errc::kCloneUnknown,
               "clone " + one_line(clone_id.substr(0, 80)) + ": neither there nor among the newest failures");
}

Result<std::string> PoolSet::console(const std::string& clone_id) const {
  for (const Member& member : all_members()) {
    auto text = member.pool->console(clone_id);
    if (text || !text.error().is(Errc::kCloneUnknown)) return text;
  }
  GRANARY_TRY(running(clone_id));
  return Error(Errc::kCloneUnknown, "clone " + clone_id);
}

Result<std::vector<PoolSet::TemplateUse>> PoolSet::templates() const {
  std::vector<TemplateUse> all;
  const std::vector<pool::PoolStatus> pools = status();
  for (pool::TemplateInfo& info : GRANARY_TRY(resources_.templates.list())) {
    TemplateUse use{.info = std::move(info), .used_by = {}};
    for (const pool::PoolStatus& pool : pools) {
      if (pool.template_key == use.info.key) use.used_by.push_back(pool.name);
    }
    all.push_back(std::move(use));
  }
  return all;
}

Result<std::string> PoolSet::build_template(const std::string& name, bool force,
                                            const std::function<void(const std::string&)>& progress) {
  const std::shared_ptr<pool::Pool> pool = GRANARY_TRY(find(name)).pool;
  const pool::PoolStatus before = pool->status();
  if (!force && before.template_state == "ready") return before.template_key;
  GRANARY_TRY(pool->rebuild_template(progress));
  return pool->status().template_key;
}

Result<bool> PoolSet::remove_template(const std::string& key) {
  if (!is_template_key(key)) {
    return Error(Errc::kInvalidArgument,
                 "template key \"" + one_line(key.substr(0, 80)) + "\": give its 64 hex digits");
  }
  for (const pool::PoolStatus& pool : status()) {
    if (pool.template_key == key)
      return Error::from_errno(EBUSY, "template " + key + ": pool " + pool.name + " uses it");
  }
  return resources_.templates.remove(key);
}

Result<AuditSample> PoolSet::sample() const {
  AuditSample sample;
  sample.vms = GRANARY_TRY(resources_.spawner.list());
  sample.leases = leases_.all();
  sample.clones = GRANARY_TRY(clones(""));
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(resources_.run_dir, code)) {
    const std::string name = entry.path().filename().string();
    const bool is_clones = name.ends_with(".sock") || name.ends_with(".fsd");
    if (is_clones && std::isdigit(static_cast<unsigned char>(name[0])) != 0) sample.sockets.push_back(name);
  }
  sample.journal = GRANARY_TRY(resources_.journal.read_back());
  for (const auto& [path, identity] : resources_.journal.namespaces()) sample.namespaces.insert(path);
  if (resources_.own_network != nullptr) {
    std::set<std::string> held;
    for (const Lease& lease : sample.leases) {
      if (!lease.address.empty()) held.insert(lease.address);
    }
    sample.others = resources_.own_network->differences(held);
  }
  for (std::string& line : resources_.shims.differences(sample.leases)) sample.others.push_back(std::move(line));
  for (std::string& line : own_shim_differences(resources_.run_dir, sample.leases))
    sample.others.push_back(std::move(line));
  if (resources_.groups == nullptr) return sample;
  sample.groups = resources_.groups->own_groups();
  if (!sample.groups) return sample;
  for (const auto& [id, clone] : sample.journal) {
    for (const std::string& group : {clone.group, clone.owners_group}) {
      if (group.starts_with('/') && resources_.groups->contains(group)) sample.groups->insert(group);
    }
  }
  return sample;
}

Result<std::vector<std::string>> PoolSet::audit() const {
  std::vector<std::string> lasting = differences(GRANARY_TRY(sample()));
  for (int look = 1; look < kAuditLooks && !lasting.empty(); ++look) {
    std::this_thread::sleep_for(kAuditPause);
    const std::vector<std::string> now = differences(GRANARY_TRY(sample()));
    std::erase_if(lasting, [&](const std::string& line) { return !std::ranges::count(now, line); });
  }
  return lasting;
}

void PoolSet::spawner_replaced() {
  for (const Member& member : all_members()) member.pool->spawner_replaced();
}

void PoolSet::drain() {
  {
    const std::lock_guard lock(pools_mutex_);
    draining_ = true;
  }
  for (const Member& member : all_members()) member.pool->drain(false);
}

void PoolSet::finish(const std::string& reason) {
  for (const Lease& lease : leases_.all()) {
    if (!lease.bound_to_call || !end_lease(lease.clone.id, reason)) continue;
    (void)reclaim(lease.clone.id);
  }
  for (const Member& member : all_members()) member.pool->leave_running();
}

}  // namespace granary::agent
