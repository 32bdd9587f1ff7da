// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/event_loop.h"
#include "vmpool/pool/template_store.h"

namespace granary::pool {

// A VMM that the spawner started, with what its owner needs.
struct SpawnedVm {
  VmId vm;
  int32_t pid = 0;
  std::string socket_path;  // the per-clone unix socket
  Fd control;
  Fd status;
  Fd pidfd;  // readable once the process has ended
};

// A file server that the spawner started for a VM.
struct SpawnedFsd {
  int32_t pid = 0;
  std::string socket_path;  // where export clients connect
  Fd fuse;                  // for VmmClient::attach_fs()
  Fd control;               // a connected export client's socket
  Fd pidfd;
};
// The shim of a pod, a process of the spawner's.
struct SpawnedShim {
  std::string sandbox_id;
  int32_t pid = 0;
  Fd pidfd;
};
struct ShimWish {
  std::string sandbox_id;
  std::string clone_id;
  VmId vm;
  std::string agent_socket;
  std::string events_socket;
  std::string netns;   // path of the pod's network namespace; empty: none
  int listener = -1;  // borrowed: where it listens
};

// The agent's connection to granary-spawn. Methods may be called from any thread, several at once; a reader thread
// takes the answers apart. Every request has a time limit: kDeadlineExceeded, and what a late answer brings is given
// back (a VM that was spawned too late is killed). kPeerGone for all requests once the spawner has gone, until reconnect().
// Answers are checked as hostile.
class SpawnerClient {
 public:
  using ExitHandler = std::function<void(const control::VmRecord&)>;
  using ShimExitHandler = std::function<void(const control::ShimRecord&)>;

  // `run_directory`: where the spawner makes the per-clone sockets (its --run-dir). kProtocolVersion.
  static Result<std::unique_ptr<SpawnerClient>> connect(const std::string& control_socket, std::string run_directory,
                                                        std::chrono::milliseconds timeout = std::chrono::seconds(30));
  ~SpawnerClient();
  SpawnerClient(const SpawnerClient&) = delete;
  SpawnerClient& operator=(const SpawnerClient&) = delete;

  // `cgroup`: directory of a cgroup v2 group for the VMM to be born in, or -1. `flags`: control::kSpawn…
  Result<SpawnedVm> spawn(int cgroup = -1, uint32_t flags = 0);
  // kNotSupported, kAlreadyRunning, kCloneGone, kCloneUnknown. It ends with the VM, or when nobody holds its `fuse`.
  Result<SpawnedFsd> spawn_fsd(VmId vm);
  // Returns once the process and its file server are reaped and their sockets' paths are gone; also for a VM that ended before. kCloneUnknown.
  Status kill(VmId vm);
  // All of them; of ended ones at least the newest.
  Result<std::vector<control::VmRecord>> list();
  // Gives a VM of a spawner that has died to this one, which watches it from now on; descriptors are borrowed.
  Status take(const SpawnedVm& vm, int control);
  // For an agent that was restarted. kCloneGone, kCloneUnknown.
  Result<SpawnedVm> adopt(VmId vm);
  Status forget(VmId vm);

  // EEXIST: the sandbox has one; kCloneGone; kNotSupported: this spawner has no shim program, or is older than shims.
  Result<SpawnedShim> start_shim(const ShimWish& wish);
  // Returns once the process is reaped; also when there is none.
  Status stop_shim(const std::string& sandbox_id);
  Result<std::vector<control::ShimRecord>> list_shims();
  // For an agent that was restarted; ENOENT.
  Result<SpawnedShim> find_shim(const std::string& sandbox_id);
  // Gives a shim of a spawner that has died to this one.
  Status take_shim(const SpawnedShim& shim);

  // Templates kept over an agent restart; ENOENT when there is none.
  Status put_template(const Template& content);
  Result<Template> get_template(const std::string& key);
  Status drop_template(const std::string& key);

  // Called on the reader thread for every VMM that was reaped: it must be brief and call nothing of this class. Once
  // remove_exit_handler() has returned the handler does not run and never will.
  uint64_t add_exit_handler(ExitHandler handler);
  void remove_exit_handler(uint64_t number);
  // The same for shims. One, replaced by the next; none: {}.
  void on_shim_exit(ShimExitHandler handler);

  // Called on the reader thread, once per connection, when it is lost. Set it before anything can be.
  void on_lost(std::function<void()> callback) { lost_ = std::move(callback); }
  // Connects to the spawner that came after the lost one; only while connected() is false.
  Status reconnect(const std::string& control_socket);
  // Counts connections: VMs of an earlier one are unknown to this spawner unless they were given to it.
  [[nodiscard]] uint64_t epoch() const { return epoch_; }

  [[nodiscard]] bool connected() const { return connected_; }
  [[nodiscard]] control::HelloReply hello();

 private:
  struct Pending {
    bool answered = false;
    std::optional<Result<control::Message>> answer;
  };

  SpawnerClient(Fd socket, EventFd stop, std::string run_directory, std::chrono::milliseconds timeout);
  Status say_hello();
  template <class Body>
  Result<control::Message> ask(control::Type type, const Body& body, std::span<const int> fds = {}) {
    return ask_bytes(type, std::as_bytes(std::span(&body, 1)), fds);
  }
  Result<control::Message> ask_bytes(control::Type type, std::span<const std::byte> body, std::span<const int> fds);
  template <class Body>
  Result<control::VmList> ask_for_list(control::Type type, const Body& body);
  [[nodiscard]] Result<std::string> path_in_run_directory(const std::string& name) const;
  static Result<SpawnedShim> shim_of(control::Message answer, control::Type type);
  Result<SpawnedVm> take_vm(control::Message answer, control::Type type);
  void read_all(const Fd& socket);
  void dispatch(control::Message message);
  void dispatch_exit(const control::Message& message);
  void dispatch_shim_exit(const control::Message& message);
  void end_late_spawn(const control::Message& message) const;
  void fail_all(const Error& error);

  std::shared_ptr<const Fd> socket_;  // guarded by mutex_
  EventFd stop_;
  std::string run_directory_;
  std::chrono::milliseconds timeout_;
  control::HelloReply hello_{};
  std::atomic<bool> connected_ = true;
  std::atomic<uint64_t> epoch_ = 1;
  std::function<void()> lost_ = [] {};

  std::mutex mutex_;
  std::condition_variable answered_;
  uint32_t next_request_ = 1;
  std::map<uint32_t, Pending*> pending_;
  std::set<uint32_t> late_spawns_;

  std::mutex handlers_mutex_;
  uint64_t next_handler_ = 1;
  std::map<uint64_t, ExitHandler> handlers_;
  ShimExitHandler shim_handler_;

  std::thread reader_;  // last: it uses all of the above
};

}  // namespace granary::pool
