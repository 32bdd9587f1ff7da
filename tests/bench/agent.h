// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "granary/v1/pool.grpc.pb.h"
#include "tests/bench/lab.h"

namespace granary::bench {

// A granaryd of its own in a folder of its own, with one pool of `size` warm clones of `guest`; ended with its owner.
// acquire() and release() may be called from several threads.
class Agent {
 public:
  struct PoolSize {
    unsigned size = 4;
    unsigned max = 8;
    unsigned memory_mib = 256;
    std::string containerd_events = {};  // containerd's ttrpc socket; empty: none
  };
  static Result<std::unique_ptr<Agent>> start(const std::string& programs, const Guest& guest, PoolSize pool);
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  Result<v1::Clone> acquire(const std::string& cgroup_parent = "");
  Status release(const v1::Clone& clone);
  // Until the pool is full again and reclaims nothing, so that the next request meets a quiet agent.
  Status wait_warm(pool::SteadyClock::duration limit = std::chrono::minutes(1));
  // Runs /bin/true in the clone; its exit code.
  Result<int> exec_true(const v1::Clone& clone);
  Result<v1::PoolStatus> status();
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::string socket() const { return folder_ + "/run/granaryd.sock"; }
  // No child of granaryd. -1: it cannot be asked.
  [[nodiscard]] pid_t spawner_pid() const;

 private:
  Agent() = default;
  Status launch(const std::string& programs, const Guest& guest, PoolSize pool);
  Result<bool> is_quiet();

  std::string folder_;
  pid_t pid_ = -1;
  std::atomic<unsigned> owners_ = 0;
  std::unique_ptr<v1::Pool::Stub> stub_;
};

// A process and all below it.
std::vector<pid_t> family_of(pid_t pid);

}  // namespace granary::bench
