// SPDX-License-Identifier: Apache-2.0
#include "agent/sandbox_controller.h"

#include <google/protobuf/util/time_util.h>

#include <atomic>

#include "agent/pod_files.h"
#include "cri/runtime.pb.h"
#include "grpc-api/status.h"

namespace granary::agent {
namespace {

namespace sandbox = containerd::services::sandbox::v1;

constexpr const char* kPoolAnnotation = "granary.dev/pool";
constexpr uint32_t kTaskVersion = 3;
constexpr uint32_t kKilledStatus = 137;
// containerd's own default for RunPodSandbox is minutes; a pool that stays empty this long is worth telling.
constexpr std::chrono::seconds kDefaultWait{30};

google::protobuf::Timestamp to_proto(std::chrono::system_clock::time_point when) {
  return google::protobuf::util::TimeUtil::NanosecondsToTimestamp(
      std::chrono::duration_cast<std::chrono::nanoseconds>(when.time_since_epoch()).count());
}

grpc::Status unknown(const std::string& sandbox_id) {
  return {grpc::StatusCode::NOT_FOUND, "sandbox " + sandbox_id + " is not known to this agent"};
}

// Host namespaces cannot be had in a kernel of one's own.
grpc::Status refuse_host_namespaces(const runtime::v1::PodSandboxConfig& config) {
  const runtime::v1::NamespaceOption& options = config.linux_config().security_context().namespace_options();
  const char* asked = options.network() == runtime::v1::NODE ? "hostNetwork"
                      : options.pid() == runtime::v1::NODE   ? "hostPID"
                      : options.ipc() == runtime::v1::NODE   ? "hostIPC"
                                                             : nullptr;
  if (asked == nullptr) return grpc::Status::OK;
  return {grpc::StatusCode::INVALID_ARGUMENT,
          std::string(asked) + ": true cannot work in a microVM, which has a kernel of its own; remove it from pod " +
              config.metadata().namespace_() + "/" + config.metadata().name() + " or use another runtimeClassName"};
}

pool::SteadyTime deadline_of(const grpc::ServerContext& context) {
  const auto now = std::chrono::system_clock::now();
  const auto left = context.deadline() > now + kDefaultWait ? kDefaultWait : context.deadline() - now;
  return std::chrono::steady_clock::now() + left;
}

}  // namespace

// One pending Wait. Finishes exactly once: with the sandbox's end or with the caller's cancellation.
class SandboxController::Waiter final : public grpc::ServerUnaryReactor {
 public:
  Waiter(SandboxController& controller, sandbox::ControllerWaitResponse* response)
      : controller_(controller), response_(response) {}
  void answer(const Sandbox& ended) {
    response_->set_exit_status(ended.exit_status);
    *response_->mutable_exited_at() = to_proto(ended.exited_at);
    Finish(grpc::Status::OK);
  }
  void OnCancel() override {
    if (controller_.forget(this)) Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }

 private:
  SandboxController& controller_;
  sandbox::ControllerWaitResponse* response_;
};

SandboxController::~SandboxController() {
  std::multimap<std::string, Waiter*> waiters;
  {
    const std::lock_guard lock(mutex_);
    waiters.swap(waiters_);
  }
  for (const auto& [id, waiter] : waiters) {
    waiter->Finish({grpc::StatusCode::UNAVAILABLE, "the agent is shutting down"});
  }
}

bool SandboxController::forget(const Waiter* waiter) {
  const std::lock_guard lock(mutex_);
  return std::erase_if(waiters_, [waiter](const auto& entry) { return entry.second == waiter; }) > 0;
}

// A guest whose words for containers are not known (it told no boot id: a tiny one) gets none.
granary::Status SandboxController::equip(const std::string& sandbox_id, const pool::CloneInfo& clone) {
  guest::v1::Pod guest_pod;
  std::string netns;
  {
    const std::lock_guard lock(mutex_);
    const Sandbox& record = sandboxes_.at(sandbox_id);
    guest_pod = record.guest_pod;
    netns = record.netns;
  }
  if (!clone.boot_id.empty()) GRANARY_TRY(backend_.prepare_guest(clone, guest_pod));
  return backend_.start_shim(sandbox_id, clone, netns);
}

grpc::Status SandboxController::Create(grpc::ServerContext* /*context*/,
                                       const sandbox::ControllerCreateRequest* request,
                                       sandbox::ControllerCreateResponse* response) {
  runtime::v1::PodSandboxConfig config;
  if (!config.ParseFromString(request->options().value())) {
    return {grpc::StatusCode::INVALID_ARGUMENT,
            "sandbox " + request->sandbox_id() + ": options are no runtime.v1.PodSandboxConfig"};
  }
  if (grpc::Status refused = refuse_host_namespaces(config); !refused.ok()) return refused;
  Sandbox record;
  record.hostname = config.hostname();
  record.cgroup_parent = config.linux_config().cgroup_parent();
  record.netns = request->netns_path();
  record.guest_pod = to_guest_pod(config, backend_.host_resolv_conf);
  auto& limits = *record.guest_pod.mutable_limits();
  record.needs = {.memory_bytes = limits.memory_bytes(),
                  .vcpus = PodNeeds::vcpus_of(static_cast<int64_t>(limits.cpu_quota_us()),
                                              static_cast<int64_t>(limits.cpu_period_us()))};
  if (!record.cgroup_parent.empty() && backend_.has_unlimited_memory(record.cgroup_parent)) limits.clear_memory_bytes();
  record.created_at = std::chrono::system_clock::now();
  if (const auto at = config.annotations().find(kPoolAnnotation); at != config.annotations().end())
    record.pool = at->second;
  const std::string& id = request->sandbox_id();
  const std::lock_guard lock(mutex_);
  const auto [at, fresh] = sandboxes_.try_emplace(id, record);
  if (!fresh && !is_same_request(at->second, record)) {
    return {grpc::StatusCode::ALREADY_EXISTS,
            "sandbox " + id + " is there with another network namespace, cgroup, hostname or pool; shut it down first"};
  }
  response->set_sandbox_id(id);
  return grpc::Status::OK;
}

bool SandboxController::is_same_request(const Sandbox& a, const Sandbox& b) {
  return a.netns == b.netns && a.cgroup_parent == b.cgroup_parent && a.hostname == b.hostname && a.pool == b.pool;
}

grpc::Status SandboxController::Start(grpc::ServerContext* context, const sandbox::ControllerStartRequest* request,
                                      sandbox::ControllerStartResponse* response) {
  const std::string& id = request->sandbox_id();
  PoolSet::Wish wish;
  if (grpc::Status begun = begin_start(id, wish); !begun.ok()) return begun;
  wish.deadline = deadline_of(*context);
  const Result<pool::CloneInfo> clone = backend_.acquire(wish);
  WallTime created_at;
  const grpc::Status taken = clone ? take_clone(id, *clone, created_at) : api::to_grpc(clone.error());
  end_start(id);
  if (!taken.ok()) return taken;
  response->set_sandbox_id(id);
  response->set_pid(static_cast<uint32_t>(clone->vmm_pid));
  *response->mutable_created_at() = to_proto(created_at);
  response->set_address(backend_.task_address(id));
  response->set_version(kTaskVersion);
  return grpc::Status::OK;
}

grpc::Status SandboxController::begin_start(const std::string& sandbox_id, PoolSet::Wish& wish) {
  const std::lock_guard lock(mutex_);
  const auto at = sandboxes_.find(sandbox_id);
  if (at == sandboxes_.end()) return unknown(sandbox_id);
  Sandbox& record = at->second;
  if (record.phase == Phase::kEnded) {
    return {grpc::StatusCode::FAILED_PRECONDITION, "sandbox " + sandbox_id + " has ended: " + record.reason};
  }
  ++record.starting;
  wish = {.pool = record.pool,
          .owner_id = owner_of(sandbox_id),
          .hostname = record.hostname,
          .deadline = {},
          .cgroup_parent = record.cgroup_parent,
          .netns = record.netns,
          .needs = record.needs,
          .shares = true,
          .forward_loopback = true};
  return grpc::Status::OK;
}

void SandboxController::end_start(const std::string& sandbox_id) {
  {
    const std::lock_guard lock(mutex_);
    --sandboxes_.at(sandbox_id).starting;
  }
  started_.notify_all();
}

grpc::Status SandboxController::take_clone(const std::string& sandbox_id, const pool::CloneInfo& clone,
                                           WallTime& created_at) {
  if (const granary::Status equipped = equip(sandbox_id, clone); !equipped) {
    (void)backend_.release(clone.id);
    (void)backend_.stop_shim(sandbox_id);
    return api::to_grpc(equipped.error());
  }
  bool stopped_meanwhile = false;
  {
    const std::lock_guard lock(mutex_);
    Sandbox& record = sandboxes_.at(sandbox_id);
    stopped_meanwhile = record.phase == Phase::kEnded;
    if (!stopped_meanwhile) {
      record.phase = Phase::kReady;
      record.clone = clone;
      created_at = record.created_at;
    }
  }
  if (stopped_meanwhile) {
    (void)backend_.release(clone.id);
    (void)backend_.stop_shim(sandbox_id);
    return {grpc::StatusCode::FAILED_PRECONDITION, "sandbox " + sandbox_id + " was stopped while it started"};
  }
  // A clone that ended before its id was stored above was nobody's when on_clone_ended() heard of it.
  if (const granary::Status running = backend_.check_running(clone.id); !running) {
    on_clone_ended(clone.id, running.error().message());
    return api::to_grpc(running.error());
  }
  return grpc::Status::OK;
}

grpc::Status SandboxController::Platform(grpc::ServerContext* /*context*/,
                                         const sandbox::ControllerPlatformRequest* /*request*/,
                                         sandbox::ControllerPlatformResponse* response) {
  response->mutable_platform()->set_os("linux");
  response->mutable_platform()->set_architecture("amd64");
  return grpc::Status::OK;
}

grpc::Status SandboxController::Status(grpc::ServerContext* /*context*/,
                                       const sandbox::ControllerStatusRequest* request,
                                       sandbox::ControllerStatusResponse* response) {
  const std::lock_guard lock(mutex_);
  const auto at = sandboxes_.find(request->sandbox_id());
  if (at == sandboxes_.end()) return unknown(request->sandbox_id());
  const Sandbox& record = at->second;
  response->set_sandbox_id(request->sandbox_id());
  response->set_pid(static_cast<uint32_t>(record.clone.vmm_pid));
  response->set_state(record.phase == Phase::kReady ? "SANDBOX_READY" : "SANDBOX_NOTREADY");
  *response->mutable_created_at() = to_proto(record.created_at);
  response->set_address(backend_.task_address(request->sandbox_id()));
  response->set_version(kTaskVersion);
  if (record.phase == Phase::kEnded) *response->mutable_exited_at() = to_proto(record.exited_at);
  if (request->verbose()) {
    auto& info = *response->mutable_info();
    info["clone"] = record.clone.id;
    info["pool"] = record.clone.pool;
    info["boot_id"] = record.clone.boot_id;
    info["reason"] = record.reason;
  }
  return grpc::Status::OK;
}

std::vector<SandboxController::Waiter*> SandboxController::end_locked(const std::string& sandbox_id, Sandbox& record,
                                                                      uint32_t exit_status, std::string reason) {
  record.phase = Phase::kEnded;
  record.exited_at = std::chrono::system_clock::now();
  record.exit_status = exit_status;
  record.reason = std::move(reason);
  std::vector<Waiter*> waiters;
  const auto [first, last] = waiters_.equal_range(sandbox_id);
  for (auto at = first; at != last; ++at) waiters.push_back(at->second);
  waiters_.erase(first, last);
  return waiters;
}

void SandboxController::answer(const std::vector<Waiter*>& waiters, const Sandbox& record) {
  for (Waiter* waiter : waiters) waiter->answer(record);
}

// What a Start takes meanwhile it gives back: once that is done, nothing of a clone is in the pod's network.
void SandboxController::await_starts(std::unique_lock<std::mutex>& lock, const std::string& sandbox_id) {
  started_.wait(lock, [&] {
    const auto at = sandboxes_.find(sandbox_id);
    return at == sandboxes_.end() || at->second.starting == 0;
  });
}

grpc::Status SandboxController::stop(const std::string& sandbox_id) {
  std::string clone_id;
  std::vector<Waiter*> waiters;
  Sandbox ended;
  {
    std::unique_lock lock(mutex_);
    const auto at = sandboxes_.find(sandbox_id);
    if (at == sandboxes_.end()) return grpc::Status::OK;
    clone_id = at->second.clone.id;
    if (at->second.phase != Phase::kEnded) waiters = end_locked(sandbox_id, at->second, 0, "stopped");
    ended = at->second;
  }
  answer(waiters, ended);
  {
    std::unique_lock lock(mutex_);
    await_starts(lock, sandbox_id);
  }
  if (clone_id.empty()) return grpc::Status::OK;
  // The clone first: until its shim ends, containerd hears from it how the containers ended.
  const Result<bool> released = backend_.release(clone_id);
  const granary::Status stopped = backend_.stop_shim(sandbox_id);
  return released ? api::to_grpc(stopped) : api::to_grpc(released);
}

grpc::Status SandboxController::Stop(grpc::ServerContext* /*context*/, const sandbox::ControllerStopRequest* request,
                                     sandbox::ControllerStopResponse* /*response*/) {
  return stop(request->sandbox_id());
}

grpc::Status SandboxController::Shutdown(grpc::ServerContext* /*context*/,
                                         const sandbox::ControllerShutdownRequest* request,
                                         sandbox::ControllerShutdownResponse* /*response*/) {
  grpc::Status stopped = stop(request->sandbox_id());
  if (!stopped.ok()) return stopped;
  const std::lock_guard lock(mutex_);
  sandboxes_.erase(request->sandbox_id());
  return grpc::Status::OK;
}

grpc::ServerUnaryReactor* SandboxController::Wait(grpc::CallbackServerContext* /*context*/,
                                                  const sandbox::ControllerWaitRequest* request,
                                                  sandbox::ControllerWaitResponse* response) {
  auto* waiter = new Waiter(*this, response);  // deletes itself in OnDone
  std::unique_lock lock(mutex_);
  const auto at = sandboxes_.find(request->sandbox_id());
  if (at == sandboxes_.end()) {
    lock.unlock();
    waiter->Finish(unknown(request->sandbox_id()));
  } else if (at->second.phase == Phase::kEnded) {
    const Sandbox ended = at->second;
    lock.unlock();
    waiter->answer(ended);
  } else {
    waiters_.emplace(request->sandbox_id(), waiter);
  }
  return waiter;
}

std::string SandboxController::owner_of(const std::string& sandbox_id) { return std::string(kOwnerPrefix) + sandbox_id; }

std::string SandboxController::sandbox_of(const Lease& lease) {
  if (!lease.owner_id.starts_with(kOwnerPrefix)) return "";
  return lease.owner_id.substr(kOwnerPrefix.size());
}

void SandboxController::restore(const Lease& lease, int64_t started_unix_ns) {
  const std::string sandbox_id = sandbox_of(lease);
  if (sandbox_id.empty()) return;
  Sandbox record;
  record.pool = lease.pool;
  record.hostname = lease.clone.hostname;
  record.cgroup_parent = lease.cgroup_parent;
  record.netns = lease.netns;
  record.phase = Phase::kReady;
  record.clone = lease.clone;
  record.created_at =
      WallTime(std::chrono::duration_cast<WallTime::duration>(std::chrono::nanoseconds(started_unix_ns)));
  const std::lock_guard lock(mutex_);
  sandboxes_.insert_or_assign(sandbox_id, std::move(record));
}

void SandboxController::on_clone_ended(const std::string& clone_id, const std::string& reason) {
  std::vector<Waiter*> waiters;
  Sandbox ended;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [id, record] : sandboxes_) {
      if (record.clone.id != clone_id || record.phase != Phase::kReady) continue;
      waiters = end_locked(id, record, kKilledStatus, reason);
      ended = record;
      break;
    }
  }
  answer(waiters, ended);
}

}  // namespace granary::agent
