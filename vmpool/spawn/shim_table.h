// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <string>

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/event_loop.h"

namespace granary::spawn {

// What a shim is started with.
struct ShimPlan {
  std::string sandbox_id;
  std::string clone_id;
  std::string guest_socket;
  std::string agent_socket;
  std::string events_socket;
  std::string netns;
  int listener = -1;  // borrowed; becomes its standard input
};

// The shims of pods (agent/shim): one process per sandbox, children of this one, in its namespaces and cgroup. Belongs
// to the event loop's thread.
class ShimTable {
 public:
  struct Shim {
    pid_t pid = 0;
    Fd pidfd;
  };
  using OnEnded = std::function<void(const control::ShimRecord&)>;

  // `executable`: of containerd-shim-granary-v2, open; invalid: there is none, and start() says so. `on_ended` is
  // called for each that was reaped.
  ShimTable(EventLoop& loop, Fd executable, OnEnded on_ended);
  ~ShimTable();
  ShimTable(const ShimTable&) = delete;
  ShimTable& operator=(const ShimTable&) = delete;

  // EEXIST: the sandbox has one. kInvalidArgument: no sandbox id. kNotSupported: no program. Errors of posix_spawn(3).
  Result<const Shim*> start(const ShimPlan& plan);
  // Watches a shim that an earlier spawner left. EEXIST, kInvalidArgument.
  Status take(const std::string& sandbox_id, Shim shim);
  // ENOENT: the sandbox has none.
  [[nodiscard]] Result<const Shim*> find(const std::string& sandbox_id) const;
  // True: killed, `on_ended` follows; false: there is none.
  bool stop(const std::string& sandbox_id);
  void stop_all();
  // Those with a greater id, in the order of ids; all with an empty one.
  [[nodiscard]] control::ShimList list_after(const std::string& sandbox_id) const;
  [[nodiscard]] size_t count() const { return shims_.size(); }

 private:
  struct Entry {
    Shim shim;
    EventLoop::Token watch = 0;
  };
  Result<const Shim*> watch(const std::string& sandbox_id, Shim shim);
  void reap(const std::string& sandbox_id);

  EventLoop& loop_;
  Fd executable_;
  OnEnded on_ended_;
  std::map<std::string, Entry> shims_;
};

control::ShimRecord shim_record(const std::string& sandbox_id, pid_t pid);

}  // namespace granary::spawn
