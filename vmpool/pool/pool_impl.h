// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "vmpool/pool/clone.h"
#include "vmpool/pool/pool.h"
#include "vmpool/pool/template_builder.h"
#include "vmpool/pool/template_store.h"

namespace granary::pool {

// kInvalidArgument, kMemoryOutOfRange, kVcpusOutOfRange, kCommandLineTooLong, kKernelMissing, kInitramfsMissing.
Status check_settings(const PoolSettings& settings);
// kInvalidArgument; `name` is the pool's.
Status check_limits(const std::string& name, const PoolLimits& limits);

// A clone that was only restored and probed has written a small part of what its template holds; its VMM needs less
// than this.
inline constexpr uint64_t kVmmBound = 4 * kMiB;

// By how much a clone can grow at most.
inline uint64_t growth_of(const Shape& shape) { return shape.memory_bytes + kVmmBound; }

// "3.10 ms"
std::string in_ms(std::chrono::nanoseconds time);

// Delays after repeated failures: doubling from 50 ms up to 10 s; a success starts over.
class Backoff {
 public:
  void failed(SteadyTime now);
  void succeeded() { failures_ = 0; }
  [[nodiscard]] SteadyTime not_before() const { return failures_ == 0 ? SteadyTime{} : not_before_; }

 private:
  int failures_ = 0;
  SteadyTime not_before_{};
};

// The pool's inside. Threads and what they do:
//   template   loads or builds the first template, then replaces those that are too old or used up
//   refill     (refill_concurrency of them; after it shrank the rest wait) shell → restore → probe → park
//   reclaim    destroys what was given up and tells about running clones that ended
//   callers    acquire, release, status …
//   spawner's  reader: on_exited(), brief
// `mutex_` guards every member below it and is never held across a message, a callback (but measure()) or anything that
// waits. A clone belongs to the thread that moved it into a state of transition (restoring, acquiring, reclaiming).
class Pool::Impl {
 public:
  Impl(PoolSettings settings, PoolResources resources);
  ~Impl();

  void start();
  Result<CloneInfo> acquire(const IdentityRequest& identity, SteadyTime deadline, const Attachments& attachments);
  Result<bool> release(const std::string& clone_id);
  Result<uint32_t> attach(const std::string& clone_id, const Disk& disk);
  Status detach(const std::string& clone_id, uint32_t disk);
  [[nodiscard]] PoolSettings settings() const;
  [[nodiscard]] PoolStatus status() const;
  [[nodiscard]] std::vector<CloneStatus> clones() const;
  [[nodiscard]] PoolMemory memory() const;
  [[nodiscard]] std::vector<FlightRecord> flights() const;
  [[nodiscard]] Result<std::string> console(const std::string& clone_id) const;
  void on_clone_ended(std::function<void(const std::string&, EndState, const std::string&)> callback);
  Status rebuild_template(const std::function<void(const std::string&)>& progress);
  Status adopt(CloneInfo info, const std::string& group, const std::string& owners_group,
               std::function<Status()> unwire);
  Status resize(const PoolLimits& limits);
  [[nodiscard]] PoolUsage usage() const;
  uint32_t allow(const PoolAllowance& allowance);
  void drain(bool and_running);
  void leave_running();
  void spawner_replaced();

 private:
  enum class State { kRestoring, kProbing, kWarm, kAcquiring, kRunning, kReclaiming };
  static const char* to_string(State state);

  struct Entry {
    std::shared_ptr<Clone> clone;
    State state = State::kRestoring;
    SteadyTime begun{};
    uint64_t generation = 0;
    bool lost = false;             // no spawner watches it
    bool ended_by_itself = false;  // a running clone whose end is to be told
    std::string end_note;
    bool leaking = false;   // a reclaim that could not be proven; tried again at `retry_at`
    SteadyTime retry_at{};
    CloneInfo info;
  };
  struct CurrentTemplate {
    std::shared_ptr<const Template> content;
    uint64_t generation = 0;
    std::string vmm_build_id;  // what it was made by and for
    SteadyTime built_at{};
    uint32_t clones = 0;  // made from it
    uint64_t bytes = 0;  // of its file, holes left out
  };
  enum class Work { kStop, kWait, kRefill, kShell };

  // pool_template.cc
  void template_loop();
  void prepare_first_template();
  Status prepare_template();
  // False: there is none that can be used. Errors of set_template().
  Result<bool> take_stored(const TemplateInputs& inputs, SteadyTime since);
  Status build_and_keep(const TemplateInputs& inputs, const std::function<void(const std::string&)>& progress);
  void store(const BuiltTemplate& built, std::string& how);
  // kVmmFailed: the spawner's VMM is another build by now.
  Status set_template(Template content, const TemplateInputs& inputs, SteadyTime built_at, const std::string& how);
  void set_template_state(const std::string& state);

  // pool_rotation.cc
  // Until the end, or until there is no template any more.
  void rotate_loop();
  [[nodiscard]] uint32_t most_clones() const;
  [[nodiscard]] bool is_used_up() const;
  // When the template is to be replaced; nothing: when another clone is made from it, or never.
  [[nodiscard]] std::optional<SteadyTime> rotation_due() const;
  // When a stored template was built; nothing when it is not to be used.
  [[nodiscard]] std::optional<SteadyTime> stored_since(const std::string& key) const;

  // pool_refill.cc
  void refill_loop(uint32_t index);
  void start_refill_threads();
  [[nodiscard]] Work next_work(uint32_t index) const;
  [[nodiscard]] SteadyTime no_work_before() const;

  // pool_limits.cc
  [[nodiscard]] uint32_t idle_target() const { return std::min(settings_.size, allowance_.idle); }
  uint32_t give_up_surplus();
  [[nodiscard]] PoolUsage usage_locked() const;
  void refill_one(std::unique_lock<std::mutex>& lock);
  Result<std::optional<std::string>> restore_for_owner(std::unique_lock<std::mutex>& lock,
                                                       const std::string& cgroup_parent);
  Result<bool> restore_as(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Clone>& clone, bool is_shell, State then);
  void shell_one(std::unique_lock<std::mutex>& lock);
  std::shared_ptr<Clone> take_shell();
  Status prepare(Clone& clone, bool is_shell, const Template& content, std::chrono::milliseconds probe_timeout);
  void set_state(const std::string& id, State state);
  void enter(Entry& entry, State state);
  void note_failure(const std::string& what);

  // pool_adopt.cc
  void lose(const Clone& clone);

  // pool_acquire.cc
  std::optional<std::string> take_warm();
  Status settle_charge(Clone& clone, const std::string& cgroup_parent);
  [[nodiscard]] Status check_slots(const Attachments& attachments) const;
  [[nodiscard]] Result<std::shared_ptr<Clone>> running(const std::string& clone_id) const;
  Result<CloneInfo> hand_over(const std::string& id, const IdentityRequest& identity, const Attachments& attachments,
                              SteadyTime begin, bool waited);
  Result<CloneInfo> acquire_one(const IdentityRequest& identity, SteadyTime deadline, const Attachments& attachments,
                                SteadyTime begin);
  Error refuse(const std::string& id, const Error& why);
  Error abandon(const std::string& id, const Error& why, bool at_once);
  void discard(std::unique_lock<std::mutex>& lock, const std::string& id);
  [[nodiscard]] Error empty_error() const;

  // pool_reclaim.cc
  void reclaim_loop();
  void reclaim_entry(std::unique_lock<std::mutex>& lock, const std::string& id);
  void destroy_entry(std::unique_lock<std::mutex>& lock, const std::string& id);
  // The leaking clone whose turn is next; nothing when there is none.
  [[nodiscard]] std::optional<std::string> next_leaking() const;
  [[nodiscard]] size_t leaking_count() const;
  void destroy_doomed(std::unique_lock<std::mutex>& lock);
  void give_up(const std::string& id);
  // `why`: the label of Measure::kEvictions; nullptr: it is the end, not an eviction.
  void give_up_idle(bool and_running, std::optional<uint64_t> but_generation, const char* why);
  // Ends a clone and tells what there is to tell of it, unless this was tried before. The names of what is left.
  std::vector<std::string> destroy(Clone& clone, bool again);
  void on_exited(const control::VmRecord& record);
  void tell_ended(const std::shared_ptr<Clone>& clone, const std::string& note);
  void count_leaks(const std::vector<std::string>& leaks);

  void measure(Measure what, double value = 1, const char* label = "") const {
    resources_.observer.measured(what, value, label);
  }
  void measure_since(SteadyTime begin, Measure what) const;
  [[nodiscard]] FlightRecord flight_of(Clone& clone) const;
  void emit(const char* kind, const std::string& clone_id, const std::string& text) const;
  [[nodiscard]] uint32_t count(State state) const;
  [[nodiscard]] CloneTools tools() {
    return {resources_.spawner, resources_.groups, resources_.journal,
            settings_.core_scheduling ? control::kSpawnCoreScheduling : 0};
  }

  PoolSettings settings_;  // its PoolLimits are guarded by mutex_; name, shape and source never change
  PoolResources resources_;
  uint64_t exit_handler_ = 0;
  std::atomic<bool> cancel_build_ = false;
  std::mutex build_mutex_;  // one build at a time; taken before mutex_

  mutable std::mutex mutex_;
  std::condition_variable warm_cv_;     // acquirers: a warm clone, or the end
  std::condition_variable work_cv_;     // refill and template threads: something to do, or the end
  std::condition_variable reclaim_cv_;  // reclaim thread
  std::condition_variable done_cv_;     // drain and release: something was reclaimed

  bool draining_ = false;
  bool stopping_ = false;
  CurrentTemplate template_;
  std::string template_state_ = "waiting";
  std::map<std::string, Entry> entries_;
  std::deque<std::string> warm_;
  PoolAllowance allowance_;
  uint64_t limits_version_ = 0;       // counts changes of settings_ and allowance_
  uint64_t last_measured_bytes_ = 0;  // of a clone of this template
  std::deque<std::shared_ptr<Clone>> shells_;
  uint32_t making_shells_ = 0;
  std::deque<std::string> to_reclaim_;
  std::deque<std::shared_ptr<Clone>> doomed_;  // shells to destroy: they have no entry
  bool destroying_doomed_ = false;
  uint32_t waiters_ = 0;
  SteadyTime handed_over_;  // the last hand-over
  Backoff backoff_;
  std::string last_error_;
  uint64_t hits_ = 0;
  uint64_t waited_ = 0;
  uint64_t failed_ = 0;
  uint64_t reclaimed_ = 0;
  uint64_t leaks_ = 0;
  std::function<void(const std::string&, EndState, const std::string&)> ended_callback_;

  uint32_t refill_threads_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace granary::pool
