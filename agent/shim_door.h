// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "agent/pool_set.h"
#include "agent/shim/ttrpc_server.h"

namespace granary::agent {

// Where shims ask the agent: the methods of granary.v1.Pool that they need (Attach, Detach, and for those that take
// their pod themselves Acquire and Release), over ttrpc, which a shim speaks anyway. gRPC would cost every pod more
// memory than all the rest of its shim; and here a disk's open file comes with the call (SCM_RIGHTS), opened in the
// host's mount namespace, which the agent's container does not have. Same messages, same meaning as on the API's
// socket; peers are checked the same way.
class ShimDoor {
 public:
  // PoolSet's. Called on threads of their own, several at once.
  struct Pools {
    std::function<Result<uint32_t>(const std::string& clone_id, const pool::Disk& disk)> attach;
    std::function<Status(const std::string& clone_id, uint32_t disk)> detach;
    std::function<Result<Lease>(const PoolSet::Wish& wish)> acquire;
    std::function<Result<bool>(const std::string& owner_id)> release;
    std::function<bool(const std::string& cgroup_parent)> has_unlimited_memory;
  };
  // Replaces a socket that an earlier agent left.
  static Result<std::unique_ptr<ShimDoor>> open(const std::string& socket_path, Pools pools);
  // Waits for calls that are being done.
  ~ShimDoor();
  ShimDoor(const ShimDoor&) = delete;
  ShimDoor& operator=(const ShimDoor&) = delete;

 private:
  ShimDoor(std::string path, Pools pools, std::unique_ptr<EventLoop> loop)
      : path_(std::move(path)), pools_(std::move(pools)), loop_(std::move(loop)) {}
  void handle(ttrpc::Call call, ttrpc::Answer answer);
  Result<std::string> attach(const std::string& payload, Fd file);
  Result<std::string> detach(const std::string& payload);
  Result<std::string> acquire(const std::string& payload);
  Result<std::string> release(const std::string& payload);
  // `count`: of those that are being done, `most` at once.
  void do_aside(std::function<Result<std::string>()> work, ttrpc::Answer answer, int& count, int most);

  std::string path_;
  Pools pools_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<ttrpc::Server> server_;
  std::mutex mutex_;
  std::condition_variable idle_;
  // Calls that are being done, each on a thread of its own: a VMM that hangs holds up its own pod alone. Guarded by the mutex.
  int waiting_ = 0;  // for a clone
  int others_ = 0;
  std::jthread thread_;
};

}  // namespace granary::agent
