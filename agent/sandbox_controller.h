// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "agent/pool_set.h"
#include "containerd/sandbox.grpc.pb.h"
#include "vmpool/guest/guest.pb.h"
#include "vmpool/pool/pool.h"

namespace granary::agent {

// What the controller needs of the agent: clones by owner, and their end.
struct SandboxBackend {
  std::function<Result<pool::CloneInfo>(const PoolSet::Wish& wish)> acquire;
  std::function<Result<bool>(const std::string& clone_id)> release;
  // kCloneGone with the reason once a clone has ended.
  std::function<granary::Status(const std::string& clone_id)> check_running;
  // Tells the clone's guest what its containers share.
  std::function<granary::Status(const pool::CloneInfo& clone, const guest::v1::Pod& pod)> prepare_guest;
  // The pod's Task service (agent/shims.h), which lives from Start to Stop. Both are idempotent.
  std::function<granary::Status(const std::string& sandbox_id, const pool::CloneInfo& clone, const std::string& netns)>
      start_shim;
  std::function<granary::Status(const std::string& sandbox_id)> stop_shim;
  std::function<std::string(const std::string& sandbox_id)> task_address;
  // A pod's cgroup has no memory limit: a container of it has none, so what the kubelet adds up is not the pod's limit.
  std::function<bool(const std::string& cgroup_parent)> has_unlimited_memory = {};
  std::string host_resolv_conf = {};  // of pods without a DNS configuration
};

// containerd's remote sandbox controller (containerd >= 2, proxy_plugins type "sandbox"): a pod sandbox is a clone from
// the pool, held under the owner "cri/<sandbox id>". Stop, Shutdown and Create-again are idempotent; Status of an
// unknown sandbox is NOT_FOUND, which makes containerd treat it as gone. Wait is a long poll and holds no thread.
//
// Sandboxes outlive the agent in the journal's leases. One that was created and not started, or has been stopped, is
// unknown to the next agent: containerd then treats it as gone.
class SandboxController final : public containerd::services::sandbox::v1::Controller::WithCallbackMethod_Wait<
                                    containerd::services::sandbox::v1::Controller::Service> {
 public:
  explicit SandboxController(SandboxBackend backend) : backend_(std::move(backend)) {}
  // Answers every Wait that is still pending with UNAVAILABLE.
  ~SandboxController() override;

  // Who holds the clone of a sandbox.
  static constexpr std::string_view kOwnerPrefix = "cri/";
  static std::string owner_of(const std::string& sandbox_id);
  // The sandbox of a lease; empty: none.
  static std::string sandbox_of(const Lease& lease);
  // A sandbox that an earlier agent started, from its clone's lease; leases of other owners are none of ours.
  void restore(const Lease& lease, int64_t started_unix_ns);

  // A clone ended by itself: its sandbox becomes SANDBOX_NOTREADY with exit status 137 and this reason. Any thread.
  void on_clone_ended(const std::string& clone_id, const std::string& reason);

  grpc::Status Create(grpc::ServerContext* context,
                      const containerd::services::sandbox::v1::ControllerCreateRequest* request,
                      containerd::services::sandbox::v1::ControllerCreateResponse* response) override;
  grpc::Status Start(grpc::ServerContext* context,
                     const containerd::services::sandbox::v1::ControllerStartRequest* request,
                     containerd::services::sandbox::v1::ControllerStartResponse* response) override;
  grpc::Status Platform(grpc::ServerContext* context,
                        const containerd::services::sandbox::v1::ControllerPlatformRequest* request,
                        containerd::services::sandbox::v1::ControllerPlatformResponse* response) override;
  grpc::Status Stop(grpc::ServerContext* context,
                    const containerd::services::sandbox::v1::ControllerStopRequest* request,
                    containerd::services::sandbox::v1::ControllerStopResponse* response) override;
  grpc::Status Status(grpc::ServerContext* context,
                      const containerd::services::sandbox::v1::ControllerStatusRequest* request,
                      containerd::services::sandbox::v1::ControllerStatusResponse* response) override;
  grpc::Status Shutdown(grpc::ServerContext* context,
                        const containerd::services::sandbox::v1::ControllerShutdownRequest* request,
                        containerd::services::sandbox::v1::ControllerShutdownResponse* response) override;
  grpc::ServerUnaryReactor* Wait(grpc::CallbackServerContext* context,
                                 const containerd::services::sandbox::v1::ControllerWaitRequest* request,
                                 containerd::services::sandbox::v1::ControllerWaitResponse* response) override;

 private:
  class Waiter;
  using WallTime = std::chrono::system_clock::time_point;
  enum class Phase { kCreated, kReady, kEnded };
  struct Sandbox {
    std::string pool;
    std::string hostname;
    std::string cgroup_parent;
    std::string netns;
    PodNeeds needs;
    guest::v1::Pod guest_pod;
    Phase phase = Phase::kCreated;
    pool::CloneInfo clone;
    WallTime created_at;
    WallTime exited_at;
    uint32_t exit_status = 0;
    std::string reason;
    unsigned starting = 0;  // Start calls that are taking its clone
  };

  static bool is_same_request(const Sandbox& a, const Sandbox& b);
  // A Start between these two keeps the sandbox in sandboxes_.
  grpc::Status begin_start(const std::string& sandbox_id, PoolSet::Wish& wish);
  void end_start(const std::string& sandbox_id);
  // Or gives it back, when the sandbox was stopped meanwhile.
  grpc::Status take_clone(const std::string& sandbox_id, const pool::CloneInfo& clone, WallTime& created_at);
  void await_starts(std::unique_lock<std::mutex>& lock, const std::string& sandbox_id);
  granary::Status equip(const std::string& sandbox_id, const pool::CloneInfo& clone);
  grpc::Status stop(const std::string& sandbox_id);
  // With the lock held: marks the sandbox ended and takes those who wait for it.
  std::vector<Waiter*> end_locked(const std::string& sandbox_id, Sandbox& sandbox, uint32_t exit_status,
                                  std::string reason);
  static void answer(const std::vector<Waiter*>& waiters, const Sandbox& sandbox);
  // True when the waiter was still pending: the caller finishes it.
  bool forget(const Waiter* waiter);

  SandboxBackend backend_;
  std::mutex mutex_;
  std::condition_variable started_;  // a Start has done with its clone
  std::map<std::string, Sandbox> sandboxes_;
  std::multimap<std::string, Waiter*> waiters_;
};

}  // namespace granary::agent
