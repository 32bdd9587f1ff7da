// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "granary/v1/pool.grpc.pb.h"
#include "tests/soak/slow_disk.h"
#include "vmpool/base/result.h"

namespace granary::soak {

struct Guest {
  std::string kernel;
  std::string initramfs;  // empty: a tiny guest, which runs no commands
  std::string command_line;
  bool runs_commands() const { return !initramfs.empty(); }
};

// A granaryd with its granary-spawn and VMMs, in a folder and a small tmpfs of its own: what a soak run maltreats. The
// calling process must be in a mount namespace of its own. Methods from one thread, except stub().
class Target {
 public:
  // `programs`: the folder of granaryd. Waits until the pool is warm.
  static Result<std::unique_ptr<Target>> start(const std::string& programs, const Guest& guest);
  ~Target();
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  // For any thread; the channel connects anew to an agent that was started again.
  [[nodiscard]] std::unique_ptr<v1::Pool::Stub> stub() const;
  // A killed agent's successor.
  Status start_agent();
  // Until the pool is full and nothing is on its way in or out, or an error that says what still is.
  Status wait_quiet(std::chrono::seconds limit);
  // What `granaryctl audit` finds, a line each.
  Result<std::vector<std::string>> audit();
  Result<v1::PoolStatus> status();
  // Builds the pool's template anew, whatever comes of it: what an agent writes to disk.
  void rebuild_template() const;

  [[nodiscard]] pid_t agent() const { return agent_; }
  // The process that listens at the spawner's socket now; -1: none.
  [[nodiscard]] pid_t spawner() const;
  // VMMs of this run: the spawner's children.
  [[nodiscard]] std::vector<pid_t> vmms() const;
  // The tmpfs with sockets and journal.
  [[nodiscard]] std::string run_folder() const { return folder_ + "/run"; }
  // Under the agent's state directory; null where there is no FUSE.
  [[nodiscard]] SlowDisk* disk() const { return disk_.get(); }
  [[nodiscard]] std::string log_tail() const;

 private:
  Target() = default;
  Status prepare(const std::string& programs, const Guest& guest);

  std::string programs_;
  std::string folder_;
  std::unique_ptr<SlowDisk> disk_;
  pid_t agent_ = -1;
  std::unique_ptr<v1::Pool::Stub> stub_;
};

// Reaps `pid` and forgets it.
void end_process(pid_t& pid, int signal);

}  // namespace granary::soak
