// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/own_pod.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>

#include "agent/shim/task_events.h"
#include "agent/shim/timestamp.h"
#include "vmpool/base/container_id.h"
#include "vmpool/base/log.h"

namespace granary::shim {
namespace {

namespace task = containerd::task::v3;
using std::chrono::milliseconds;

constexpr uint32_t kKilledStatus = 128 + SIGKILL;
constexpr uint32_t kMostSignal = 64;
// Of the caller's deadline: an answer that says why must come before the caller has given up.
constexpr milliseconds kToAnswer{1000};
constexpr milliseconds kEventsLimit{5000};
constexpr milliseconds kEventsLook{20};

// Every request of the Task service has the id first; more of it may be no text.
std::string id_of(const std::string& payload) {
  task::PidsRequest request;
  return request.ParseFromString(payload) ? request.id() : "";
}

// Of a method whose request has an exec id at the same place, and no other one.
bool names_exec(const ttrpc::Call& call) {
  static constexpr std::array<std::string_view, 4> kMethods = {"Start", "Delete", "State", "Wait"};
  task::StateRequest request;
  return std::ranges::count(kMethods, call.method) != 0 && request.ParseFromString(call.payload) &&
         !request.exec_id().empty();
}

milliseconds wait_within(std::chrono::nanoseconds timeout) {
  const milliseconds most = OwnPod::kDefaultWait;
  if (timeout.count() == 0) return most;
  const auto all = std::chrono::duration_cast<milliseconds>(timeout);
  return std::clamp(all > 2 * kToAnswer ? all - kToAnswer : all / 2, milliseconds(1), most);
}

bool ends_sandbox(uint32_t signal) { return signal == SIGKILL || signal == SIGTERM || signal == SIGINT; }

}  // namespace

OwnPod::OwnPod(EventLoop& loop, Pod pod, std::function<void()> ended)
    : loop_(loop),
      pod_(std::move(pod)),
      ended_(std::move(ended)),
      clone_(loop, pod_.agent_socket, pod_.sandbox_id),
      events_(loop, pod_.events_socket),
      pid_(static_cast<uint32_t>(::getpid())) {
  watch_unused();
}

void OwnPod::watch_unused() {
  loop_.remove(unused_timer_);
  unused_timer_ = loop_.call_at(EventLoop::Clock::now() + kUnusedLimit, [this] {
    unused_timer_ = 0;
    if (phase_ == Phase::kNone && !shutdown_asked_) ended_();
  });
}

OwnPod::~OwnPod() { loop_.remove(unused_timer_); }

const std::map<std::string, OwnPod::Method>& OwnPod::methods() {
  static const std::map<std::string, Method> kMethods = {
      {"Start", &OwnPod::start},      {"Kill", &OwnPod::kill},        {"Delete", &OwnPod::remove},
      {"Wait", &OwnPod::wait},        {"State", &OwnPod::state},      {"Pids", &OwnPod::pids},
      {"CloseIO", &OwnPod::close_io}, {"Exec", &OwnPod::refuse},      {"ResizePty", &OwnPod::refuse},
      {"Update", &OwnPod::refuse},    {"Stats", &OwnPod::refuse},     {"Pause", &OwnPod::refuse},
      {"Resume", &OwnPod::refuse},    {"Checkpoint", &OwnPod::refuse}};
  return kMethods;
}

void OwnPod::handle(ttrpc::Call call, Answer answer) {
  const Result<Caller> caller = caller_of(call);
  if (!caller) return answer(caller.error());
  if (call.method == "Shutdown") return shutdown(answer);
  if (call.method == "Connect") return connect(*caller, answer);
  const std::string id = id_of(call.payload);
  if (id != pod_.sandbox_id) {
    if (service_ && phase_ != Phase::kTaking) return service_->handle(std::move(call), std::move(answer));
    return answer(
        rpc_error(call.method == "Create" ? Rpc::kFailedPrecondition : Rpc::kNotFound,
                  "container " + id.substr(0, kMaxIdBytes) + ": sandbox " + pod_.sandbox_id + " has no clone yet"));
  }
  if (names_exec(call)) return answer(rpc_error(Rpc::kNotFound, "sandbox " + id + " has no execs"));
  if (call.method == "Create") return create(call, *caller, std::move(answer));
  const auto method = methods().find(call.method);
  if (method == methods().end()) return answer(unknown_method(call));
  (this->*method->second)(call.payload, answer);
}

void OwnPod::create(const ttrpc::Call& call, const Caller& caller, Answer answer) {
  if (phase_ == Phase::kDeleted) {
    return answer(rpc_error(Rpc::kFailedPrecondition, "sandbox " + pod_.sandbox_id + " has been deleted"));
  }
  if (phase_ != Phase::kNone) {
    return answer(rpc_error(Rpc::kAlreadyExists, "sandbox " + pod_.sandbox_id + " exists already"));
  }
  if (!request_.ParseFromString(call.payload)) {
    return answer(rpc_error(Rpc::kInvalidArgument, "no CreateTaskRequest"));
  }
  const auto read = [&]() -> Result<SandboxSpec> {
    const std::string config = GRANARY_TRY(read_file(request_.bundle() + "/config.json", kMaxSpecBytes + 1));
    SandboxSpec spec = GRANARY_TRY(read_sandbox_spec(config, caller.containerd_namespace));
    GRANARY_TRY(read_pod_files(spec));
    return spec;
  };
  Result<SandboxSpec> spec = read();
  if (!spec) return answer(spec.error());
  spec_ = *std::move(spec);
  namespace_ = caller.containerd_namespace;
  phase_ = Phase::kTaking;
  unwanted_ = false;
  clone_.take(
      spec_, wait_within(call.timeout),
      [this, answer = std::move(answer)](const Result<v1::AcquireResponse>& taken) { on_taken(taken, answer); });
}

void OwnPod::on_taken(const Result<v1::AcquireResponse>& taken, const Answer& answer) {
  if (!taken) {
    phase_ = Phase::kNone;
    watch_unused();
    answer(taken.error());
    return end_if_unused();
  }
  if (unwanted_) {
    return undo(rpc_error(Rpc::kFailedPrecondition, "sandbox " + pod_.sandbox_id + " was deleted while it was created"),
                answer);
  }
  if (taken->memory_unlimited()) spec_.pod.mutable_limits()->clear_memory_bytes();
  equip(taken->clone(), answer);
}

// A guest whose words for containers are not known (it told no boot id: a tiny one) gets none.
void OwnPod::equip(const v1::Clone& clone, const Answer& answer) {
  pod_.clone_id = clone.id();
  pod_.guest_socket = clone.socket_path();
  clone_gone_ = false;
  service_ = std::make_unique<TaskService>(loop_, pod_, [this] { on_clone_gone(); });
  service_->open();
  pod_.netns = spec_.netns;
  forward_ = forward_ports(loop_, pod_);
  log_line(LogLevel::kInfo, "ready sandbox=%s clone=%s", pod_.sandbox_id.c_str(), pod_.clone_id.c_str());
  if (clone.boot_id().empty()) return created(answer);
  service_->set_pod(spec_.pod, [this, answer](const Status& done) {
    if (!done) return undo(done.error(), answer);
    if (unwanted_) return undo(rpc_error(Rpc::kFailedPrecondition, "sandbox was deleted while it was created"), answer);
    created(answer);
  });
}

void OwnPod::undo(const Error& why, const Answer& answer) {
  give_back([this, why, answer] {
    service_.reset();
    forward_.reset();
    phase_ = Phase::kNone;
    watch_unused();
    answer(why);
    end_if_unused();
  });
}

void OwnPod::created(const Answer& answer) {
  phase_ = Phase::kCreated;
  events_.publish(namespace_, created_event(request_, pid_));
  task::CreateTaskResponse response;
  response.set_pid(pid_);
  answer(response.SerializeAsString());
  if (clone_gone_) exited(kKilledStatus);
}

void OwnPod::give_back(std::function<void()> done) {
  clone_.give_back(
      [this] {
        // No agent can: the guest itself may, and then the next agent finds a VMM that has ended.
        if (service_ && !clone_gone_) service_->power_off();
        return clone_gone_;
      },
      std::move(done));
}

void OwnPod::on_clone_gone() {
  clone_gone_ = true;
  if (phase_ == Phase::kCreated || phase_ == Phase::kRunning) exited(kKilledStatus);
}

void OwnPod::exited(uint32_t status) {
  phase_ = Phase::kStopped;
  forward_.reset();  // it holds the pod's network namespace
  exit_ = Exit{status, std::chrono::system_clock::now()};
  containerd::events::TaskExit event;
  event.set_container_id(pod_.sandbox_id);
  event.set_id(pod_.sandbox_id);
  event.set_pid(pid_);
  event.set_exit_status(status);
  set_time(*event.mutable_exited_at(), exit_->at);
  events_.publish(namespace_, event);
  std::vector<std::function<void()>> waiting;
  waiting.swap(waiting_);
  for (const auto& told : waiting) told();
}

Status OwnPod::check_there() const {
  if (phase_ != Phase::kNone && phase_ != Phase::kTaking && phase_ != Phase::kDeleted) return ok();
  return rpc_error(Rpc::kNotFound, "sandbox " + pod_.sandbox_id + " is not created");
}

void OwnPod::start(const std::string& /*payload*/, Answer& answer) {
  if (const Status there = check_there(); !there) return answer(there.error());
  if (phase_ != Phase::kCreated) {
    return answer(rpc_error(Rpc::kFailedPrecondition, "sandbox " + pod_.sandbox_id + " was started already"));
  }
  phase_ = Phase::kRunning;
  containerd::events::TaskStart event;
  event.set_container_id(pod_.sandbox_id);
  event.set_pid(pid_);
  events_.publish(namespace_, event);
  task::StartResponse response;
  response.set_pid(pid_);
  answer(response.SerializeAsString());
}

// As the pause process does, whose place it takes: what would not end that does nothing here.
void OwnPod::kill(const std::string& payload, Answer& answer) {
  task::KillRequest request;
  if (!request.ParseFromString(payload)) return answer(rpc_error(Rpc::kInvalidArgument, "no KillRequest"));
  if (request.signal() == 0 || request.signal() > kMostSignal) {
    return answer(
        rpc_error(Rpc::kInvalidArgument, "signal " + std::to_string(request.signal()) + "; 1 to 64 are possible"));
  }
  if (!request.exec_id().empty()) return refuse(payload, answer);
  if (const Status there = check_there(); !there) return answer(there.error());
  if (phase_ == Phase::kStopped) {
    return answer(rpc_error(Rpc::kNotFound, "sandbox " + pod_.sandbox_id + " has ended"));
  }
  if (ends_sandbox(request.signal()) && phase_ != Phase::kEnding) {
    phase_ = Phase::kEnding;
    const uint32_t status = request.signal() == SIGKILL ? kKilledStatus : 0;
    give_back([this, status] { exited(status); });
  }
  answer(std::string());
}

void OwnPod::remove(const std::string& /*payload*/, Answer& answer) {
  unwanted_ = phase_ == Phase::kTaking;
  if (const Status there = check_there(); !there) return answer(there.error());
  if (phase_ == Phase::kStopped) return removed(answer);
  if (phase_ != Phase::kCreated) {
    return answer(rpc_error(Rpc::kFailedPrecondition, "sandbox " + pod_.sandbox_id + " runs; kill it first"));
  }
  phase_ = Phase::kEnding;
  waiting_.emplace_back([this, answer] { removed(answer); });
  give_back([this] { exited(kKilledStatus); });
}

void OwnPod::removed(const Answer& answer) {
  phase_ = Phase::kDeleted;
  containerd::events::TaskDelete event;
  event.set_container_id(pod_.sandbox_id);
  event.set_pid(pid_);
  event.set_exit_status(exit_->status);
  set_time(*event.mutable_exited_at(), exit_->at);
  events_.publish(namespace_, event);
  task::DeleteResponse response;
  response.set_pid(pid_);
  response.set_exit_status(exit_->status);
  set_time(*response.mutable_exited_at(), exit_->at);
  answer(response.SerializeAsString());
}

void OwnPod::wait(const std::string& /*payload*/, Answer& answer) {
  if (const Status there = check_there(); !there) return answer(there.error());
  auto tell = [this, answer = std::move(answer)] {
    task::WaitResponse response;
    response.set_exit_status(exit_->status);
    set_time(*response.mutable_exited_at(), exit_->at);
    answer(response.SerializeAsString());
  };
  if (exit_) return tell();
  waiting_.emplace_back(std::move(tell));
}

void OwnPod::state(const std::string& /*payload*/, Answer& answer) {
  if (const Status there = check_there(); !there) return answer(there.error());
  task::StateResponse response;
  response.set_id(pod_.sandbox_id);
  response.set_bundle(request_.bundle());
  response.set_pid(pid_);
  response.set_status(phase_ == Phase::kCreated   ? task::CREATED
                      : phase_ == Phase::kStopped ? task::STOPPED
                                                  : task::RUNNING);
  if (exit_) {
    response.set_exit_status(exit_->status);
    set_time(*response.mutable_exited_at(), exit_->at);
  }
  answer(response.SerializeAsString());
}

void OwnPod::pids(const std::string& /*payload*/, Answer& answer) {
  if (const Status there = check_there(); !there) return answer(there.error());
  task::PidsResponse response;
  response.add_processes()->set_pid(pid_);
  answer(response.SerializeAsString());
}

void OwnPod::close_io(const std::string& /*payload*/, Answer& answer) { answer(std::string()); }

void OwnPod::refuse(const std::string& /*payload*/, Answer& answer) {
  answer(rpc_error(Rpc::kUnimplemented,
                   "sandbox " + pod_.sandbox_id + " is a virtual machine and has no process of its own"));
}

void OwnPod::connect(const Caller& caller, const Answer& answer) const {
  task::ConnectResponse response;
  response.set_shim_pid(pid_);
  response.set_task_pid(pid_);
  response.set_version(caller.version);
  answer(response.SerializeAsString());
}

// Asked after every task's Delete; the shim ends with the last one. Also of a pod that never got that far.
void OwnPod::shutdown(const Answer& answer) {
  answer(std::string());
  unwanted_ = phase_ == Phase::kTaking;
  if (phase_ != Phase::kNone && phase_ != Phase::kTaking && phase_ != Phase::kDeleted) return;
  shutdown_asked_ = true;
  end_if_unused();
}

void OwnPod::end_if_unused() {
  const bool has_sandbox = phase_ != Phase::kNone && phase_ != Phase::kDeleted;
  if (!shutdown_asked_ || has_sandbox || (service_ && service_->containers() > 0)) return;
  end_when_told(EventLoop::Clock::now() + kEventsLimit);
}

// containerd is told of the last events, unless it is away.
void OwnPod::end_when_told(EventLoop::Clock::time_point limit) {
  const size_t unsent = events_.unsent() + (service_ ? service_->unsent_events() : 0);
  if (unsent == 0 || EventLoop::Clock::now() >= limit) return loop_.post(ended_);
  loop_.call_at(EventLoop::Clock::now() + kEventsLook, [this, limit] { end_when_told(limit); });
}

}  // namespace granary::shim
