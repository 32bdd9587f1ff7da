// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "vmpool/pool/pool.h"
#include "vmpool/pool/spawner_client.h"
#include "vmpool/pool/template_store.h"

namespace granary::pool {

// For tests only: a folder of its own with a real granary-spawn running on the fake VMM or on a real one, and
// everything a pool needs.
class TestBench {
 public:
  TestBench();  // the fake VMM
  TestBench(const std::string& vmm, const std::string& kvm);
  ~TestBench();
  TestBench(const TestBench&) = delete;
  TestBench& operator=(const TestBench&) = delete;

  // Words of fake_vmm.cc, one a line; takes effect at the VMMs' next step.
  void set_behaviour(const std::string& words) const;
  // What the spawner is said to start from now on.
  void set_vmm_build(const std::string& build);
  void kill_spawner();
  void start_spawner();

  SpawnerClient& spawner() { return *spawner_; }
  TemplateStore& templates() { return *templates_; }
  [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }
  [[nodiscard]] pid_t spawner_pid() const { return spawner_pid_; }
  [[nodiscard]] std::set<std::string> sockets() const;
  [[nodiscard]] std::set<std::string> groups() const;

  [[nodiscard]] PoolSettings settings() const;
  PoolResources resources();

  // Waits until `condition` holds, looking again at each event of the pool and at short intervals; false after a
  // minute.
  bool wait_until(const std::function<bool()>& condition);
  [[nodiscard]] size_t events(const std::string& kind) const;
  [[nodiscard]] std::string last_text(const std::string& kind) const;

  std::atomic<bool> fail_group_removal = false;
  std::atomic<bool> print_events = false;

 private:
  std::filesystem::path folder_;
  std::string vmm_;
  std::string kvm_;
  pid_t spawner_pid_ = -1;
  std::unique_ptr<SpawnerClient> spawner_;
  std::unique_ptr<TemplateStore> templates_;
  mutable std::mutex mutex_;
  std::condition_variable event_cv_;
  std::vector<Event> events_;
  std::string vmm_build_ = "fake";
  std::set<std::string> groups_;
};

}  // namespace granary::pool
