// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/pool_impl.h"

namespace granary::pool {

std::string in_ms(std::chrono::nanoseconds time) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f ms", std::chrono::duration<double, std::milli>(time).count());
  return text;
}

Pool::Impl::Impl(PoolSettings settings, PoolResources resources)
    : settings_(std::move(settings)), resources_(std::move(resources)) {}

Pool::Impl::~Impl() {
  drain(/*and_running=*/true);
  // No event can come from here on: the handler uses this object.
  resources_.spawner.remove_exit_handler(exit_handler_);
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_cv_.notify_all();
  reclaim_cv_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Pool::Impl::start() {
  exit_handler_ = resources_.spawner.add_exit_handler([this](const control::VmRecord& record) { on_exited(record); });
  threads_.emplace_back([this] { template_loop(); });
  threads_.emplace_back([this] { reclaim_loop(); });
  const std::lock_guard lock(mutex_);
  start_refill_threads();
}

const char* Pool::Impl::to_string(State state) {
  switch (state) {
    case State::kRestoring:
      return "restoring";
    case State::kProbing:
      return "probing";
    case State::kWarm:
      return "warm";
    case State::kAcquiring:
      return "acquiring";
    case State::kRunning:
      return "running";
    case State::kReclaiming:
      return "reclaiming";
  }
  return "invalid";
}

uint32_t Pool::Impl::count(State state) const {
  uint32_t n = 0;
  for (const auto& [id, entry] : entries_) n += entry.state == state ? 1 : 0;
  return n;
}

PoolSettings Pool::Impl::settings() const {
  const std::lock_guard lock(mutex_);
  return settings_;
}

PoolStatus Pool::Impl::status() const {
  const std::lock_guard lock(mutex_);
  PoolStatus status;
  status.name = settings_.name;
  status.shape = settings_.shape;
  if (template_.content) status.template_key = template_.content->key;
  status.template_state = template_state_;
  status.size = settings_.size;
  status.min = settings_.min;
  status.target = idle_target();
  status.bound = allowance_.reason;
  status.adaptive = settings_.adaptive;
  status.wanted = settings_.adaptive ? std::min(settings_.size, allowance_.wanted) : settings_.size;
  status.why = allowance_.why;
  status.usage = usage_locked();
  status.warm = count(State::kWarm);
  status.restoring = count(State::kRestoring) + count(State::kProbing);
  status.running = count(State::kRunning) + count(State::kAcquiring);
  status.reclaiming = count(State::kReclaiming);
  status.hits = hits_;
  status.waited = waited_;
  status.failed = failed_;
  status.reclaimed = reclaimed_;
  status.leaks = leaks_;
  status.last_error = last_error_;
  return status;
}

std::vector<CloneStatus> Pool::Impl::clones() const {
  std::vector<CloneStatus> list;
  std::vector<std::shared_ptr<Clone>> handles;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : entries_) {
      list.push_back({.info = entry.info, .state = to_string(entry.state), .memory_bytes = 0});
      handles.push_back(entry.state == State::kRestoring ? nullptr : entry.clone);
    }
  }
  // Reading /proc takes a while per process: not under the lock.
  for (size_t i = 0; i < list.size(); ++i) {
    if (handles[i]) list[i].memory_bytes = handles[i]->memory_bytes();
  }
  return list;
}

PoolMemory Pool::Impl::memory() const {
  std::vector<std::pair<std::shared_ptr<Clone>, bool>> clones;  // and whether somebody holds it
  PoolMemory memory;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : entries_) {
      if (entry.state != State::kRestoring) clones.emplace_back(entry.clone, entry.state == State::kRunning);
    }
    for (const auto& shell : shells_) clones.emplace_back(shell, false);
    memory.template_bytes = template_.bytes;
  }
  for (const auto& [clone, held] : clones)
    (held ? memory.running_bytes : memory.idle_bytes) += clone->own_memory_bytes();
  return memory;
}

FlightRecord Pool::Impl::flight_of(Clone& clone) const {
  FlightRecord record = clone.flight().read();
  record.clone_id = clone.id();
  record.pool = settings_.name;
  return record;
}

std::vector<FlightRecord> Pool::Impl::flights() const {
  std::vector<FlightRecord> records;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : entries_) records.push_back(flight_of(*entry.clone));
  return records;
}

Result<std::string> Pool::Impl::console(const std::string& clone_id) const {
  std::shared_ptr<Clone> clone;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(clone_id);
    if (found == entries_.end() || found->second.state == State::kRestoring) {
      return Error(Errc::kCloneUnknown, "clone " + clone_id + " in pool " + settings_.name);
    }
    clone = found->second.clone;
  }
  return clone->console();
}

void Pool::Impl::on_clone_ended(std::function<void(const std::string&, EndState, const std::string&)> callback) {
  const std::lock_guard lock(mutex_);
  ended_callback_ = std::move(callback);
}

void Pool::Impl::measure_since(SteadyTime begin, Measure what) const {
  measure(what, std::chrono::duration<double>(SteadyClock::now() - begin).count());
}

void Pool::Impl::emit(const char* kind, const std::string& clone_id, const std::string& text) const {
  if (!resources_.on_event) return;
  resources_.on_event({.when = std::chrono::system_clock::now(),
                       .kind = kind,
                       .pool = settings_.name,
                       .clone_id = clone_id,
                       .text = text});
}

}  // namespace granary::pool
