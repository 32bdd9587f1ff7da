// SPDX-License-Identifier: Apache-2.0
#include "agent/pool_set.h"

#include <spdlog/spdlog.h>

#include <algorithm>

namespace granary::agent {
namespace {

constexpr size_t kMaxOwnerBytes = 128;
constexpr size_t kMaxHostnameBytes = 63;  // one label; also what Linux lets sethostname(2) take

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
  return ok();
}

bool is_template_key(const std::string& key) {
  return key.size() == 64 && key.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Event texts may quote a guest.
std::string one_line(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

void log_event(const pool::Event& event) {
  const bool bad = event.kind.ends_with("-failed");
  spdlog::log(bad ? spdlog::level::warn : spdlog::level::info, "{} pool={} clone={} text=\"{}\"", event.kind,
              event.pool, event.clone_id.empty() ? "-" : event.clone_id, one_line(event.text));
}

}  // namespace

Result<std::unique_ptr<PoolSet>> PoolSet::start(const Config& config, Resources resources) {
  std::unique_ptr<PoolSet> set(new PoolSet(std::move(resources)));
  for (const pool::PoolSettings& settings : config.pools) GRANARY_TRY(set->add(settings));
  set->reclaimer_ = std::jthread([raw = set.get()](const std::stop_token& stop) { raw->reclaim_posted(stop); });
  return set;
}

PoolSet::~PoolSet() {
  reclaimer_ = {};
  // Pools end before the leases that their callbacks write to.
  pools_.clear();
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
          }};
}

Status PoolSet::add(const pool::PoolSettings& settings) {
  EventFeed* const events = &resources_.events;
  pool::PoolResources resources{.spawner = resources_.spawner,
                                .templates = resources_.templates,
                                .vmm_build_id = control::text_of(resources_.spawner.hello().build_id),
                                .host_fingerprint = resources_.host_fingerprint,
                                .groups = groups(),
                                .on_event = [events](const pool::Event& event) {
                                  log_event(event);
                                  events->publish(event);
                                }};
  std::unique_ptr<pool::Pool> pool = GRANARY_TRY(pool::Pool::start(settings, std::move(resources)));
  pool->on_clone_ended([this, name = settings.name](const std::string& clone_id, EndState state,
                                                    const std::string& reason) {
    end_lease(clone_id, std::string("ended: ") + to_string(state) + (reason.empty() ? "" : ", " + one_line(reason)));
    post({.pool = name, .clone_id = clone_id});
  });
  pools_.emplace_back(settings.name, std::move(pool));
  return ok();
}

Result<pool::Pool*> PoolSet::find(const std::string& name) const {
  std::string known;
  for (const auto& [pool_name, pool] : pools_) {
    if (pool_name == name || name.empty()) return pool.get();
    known += (known.empty() ? "" : ", ") + pool_name;
  }
  return Error(Errc::kPoolUnknown, "pool \"" + one_line(name.substr(0, 80)) + "\"; configured: " + known);
}

Result<Lease> PoolSet::acquire(const Wish& wish) {
  GRANARY_TRY(check_wish(wish));
  pool::Pool* const pool = GRANARY_TRY(find(wish.pool));
  const std::string name = wish.pool.empty() ? pools_.front().first : wish.pool;
  LeaseTable::Outcome outcome = GRANARY_TRY(leases_.begin(wish.owner_id, name, wish.deadline, wish.disks));
  if (outcome.held) return *std::move(outcome.held);
  return take(*std::move(outcome.claim), name, *pool, wish);
}

Result<Lease> PoolSet::acquire_new(const Wish& wish) {
  GRANARY_TRY(check_wish(wish));
  pool::Pool* const pool = GRANARY_TRY(find(wish.pool));
  const std::string name = wish.pool.empty() ? pools_.front().first : wish.pool;
  LeaseTable::Outcome outcome = GRANARY_TRY(leases_.begin(wish.owner_id, name, wish.deadline, wish.disks));
  if (outcome.held) {
    return Error(Errc::kInvalidArgument, "owner " + wish.owner_id + " holds clone " + outcome.held->clone.id +
                                             " already; release it first or choose another owner_id");
  }
  return take(*std::move(outcome.claim), name, *pool, wish);
}

Result<Lease> PoolSet::take(LeaseTable::Claim claim, const std::string& name, pool::Pool& pool, const Wish& wish) {
  // Opened before the clone is taken: a wrong path costs none. Ours are closed when it has its own.
  const pool::Attachments attachments{
      .disks = GRANARY_TRY(open_disks(wish.disks, pool.status().shape.devices.block_slots)), .taps = {}};
  pool::CloneInfo clone = GRANARY_TRY(pool.acquire({.hostname = wish.hostname}, wish.deadline, attachments));
  if (!claim.commit(name, clone, wish.disks)) {
    return Error(Errc::kCloneGone,
                 "clone " + clone.id + " right after its hand-over, " + leases_.gone(clone.id).value_or("ended"));
  }
  return Lease{.owner_id = wish.owner_id, .pool = name, .clone = std::move(clone), .disks = wish.disks};
}

Result<bool> PoolSet::release(const std::string& clone_id) {
  const auto lease = leases_.of_clone(clone_id);
  if (!lease) {
    if (leases_.gone(clone_id)) return false;
    return Error(Errc::kCloneUnknown, "clone " + one_line(clone_id.substr(0, 80)) + "; `granaryctl ls` lists them");
  }
  if (!end_lease(clone_id, "released")) return false;
  return GRANARY_TRY(find(lease->pool))->release(clone_id);
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
    const auto pool = find(job.pool);
    const auto released = pool ? (*pool)->release(job.clone_id) : Result<bool>(false);
    if (!released)
      spdlog::error("reclaim failed pool={} clone={} error=\"{}\"", job.pool, job.clone_id, released.error().message());
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
  for (const auto& [name, pool] : pools_) all.push_back(pool->status());
  return all;
}

Result<std::vector<pool::CloneStatus>> PoolSet::clones(const std::string& name) const {
  if (!name.empty()) return GRANARY_TRY(find(name))->clones();
  std::vector<pool::CloneStatus> all;
  for (const auto& [pool_name, pool] : pools_) {
    for (pool::CloneStatus& clone : pool->clones()) all.push_back(std::move(clone));
  }
  return all;
}

Result<std::string> PoolSet::console(const std::string& clone_id) const {
  for (const auto& [name, pool] : pools_) {
    auto text = pool->console(clone_id);
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
  pool::Pool* const pool = GRANARY_TRY(find(name));
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

void PoolSet::drain() {
  for (const auto& [name, pool] : pools_) pool->drain(false);
}

void PoolSet::end_all(const std::string& reason) {
  for (const Lease& lease : leases_.all()) end_lease(lease.clone.id, reason);
  for (const auto& [name, pool] : pools_) pool->drain(true);
}

}  // namespace granary::agent
