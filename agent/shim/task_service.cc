// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/task_service.h"

#include <unistd.h>

#include "agent/shim/timestamp.h"
#include "containerd/events.pb.h"
#include "vmpool/base/log.h"

namespace granary::shim {
namespace {

constexpr std::string_view kServicePrefix = "containerd.task.";
constexpr std::string_view kServiceSuffix = ".Task";
constexpr const char* kDefaultNamespace = "k8s.io";

// "v2" or "v3"; empty: another service.
std::string version_of(const std::string& service) {
  if (!service.starts_with(kServicePrefix) || !service.ends_with(kServiceSuffix)) return "";
  const std::string version =
      service.substr(kServicePrefix.size(), service.size() - kServicePrefix.size() - kServiceSuffix.size());
  return version == "v2" || version == "v3" ? version : "";
}

}  // namespace

TaskService::TaskService(EventLoop& loop, Pod pod)
    : loop_(loop),
      pod_(std::move(pod)),
      control_(loop, pod_.guest_socket, [this](const Error& why) { on_clone_gone(why); }),
      // That the clone has gone, control_ tells.
      slow_control_(loop, pod_.guest_socket, [](const Error&) {}),
      disks_(loop, pod_.agent_socket, pod_.clone_id),
      shares_(pod_.guest_socket),
      events_(loop, pod_.events_socket),
      pid_(static_cast<uint32_t>(::getpid())) {}

TaskService::~TaskService() = default;

void TaskService::open() {
  if (const Status opened = control_.open(); !opened) return on_clone_gone(opened.error());
  (void)slow_control_.open();
}

void TaskService::handle(ttrpc::Call call, ttrpc::Answer answer) {
  const std::string version = version_of(call.service);
  const auto method = methods().find(call.method);
  if (version.empty() || method == methods().end()) {
    return answer(rpc_error(Rpc::kUnimplemented, "method " + call.service.substr(0, kMaxIdBytes) + "/" +
                                                     call.method.substr(0, kMaxIdBytes) + " is not known here"));
  }
  const auto given = call.metadata.find("containerd-namespace-ttrpc");
  const Caller caller{.containerd_namespace = given == call.metadata.end() ? kDefaultNamespace : given->second,
                      .version = version};
  (this->*method->second)(caller, call.payload, answer);
}

Result<TaskService::Container*> TaskService::find(const std::string& id) {
  const auto found = containers_.find(id);
  if (found == containers_.end()) {
    return rpc_error(Rpc::kNotFound, "container " + id.substr(0, kMaxIdBytes) + " is not known");
  }
  return &found->second;
}

Result<Process*> TaskService::find(const std::string& id, const std::string& exec_id, Operation operation) {
  Container* container = GRANARY_TRY(find(id));
  Process* process = container->process.get();
  if (!exec_id.empty()) {
    const auto found = container->execs.find(exec_id);
    if (found == container->execs.end()) {
      return rpc_error(Rpc::kNotFound,
                       "exec " + exec_id.substr(0, kMaxIdBytes) + " in container " + id + " is not known");
    }
    process = found->second.get();
  }
  GRANARY_TRY(check_operation(operation, process->phase(), process->name()));
  return process;
}

void TaskService::on_exited(const std::string& id, const std::string& exec_id) {
  const Result<Container*> container = find(id);
  if (!container) return;
  const auto exec = (*container)->execs.find(exec_id);
  const Process& process = exec == (*container)->execs.end() ? *(*container)->process : *exec->second;
  containerd::events::TaskExit event;
  event.set_container_id(id);
  event.set_id(exec_id.empty() ? id : exec_id);
  event.set_pid(pid_);
  event.set_exit_status(process.exit()->status);
  set_time(*event.mutable_exited_at(), process.exit()->at);
  publish(**container, event);
}

void TaskService::on_clone_gone(const Error& why) {
  log_line(LogLevel::kError, "the clone has gone: %s", why.message().c_str());
  clone_gone_ = why;
  // What ends while it is created takes its container out of containers_.
  std::vector<std::shared_ptr<Process>> all;
  for (const auto& [id, container] : containers_) {
    for (const auto& [exec_id, exec] : container.execs) all.push_back(exec);
    all.push_back(container.process);
  }
  for (const auto& process : all) process->end(why);
}

void TaskService::publish(const Container& container, const google::protobuf::MessageLite& event) {
  events_.publish(container.containerd_namespace, event);
}

void TaskService::let_go_of(std::shared_ptr<Process> process) {
  // Its reader may not have taken everything yet.
  constexpr std::chrono::seconds kDrainLimit{2};
  if (process->has_unwritten_output()) {
    loop_.call_at(EventLoop::Clock::now() + kDrainLimit, [process = std::move(process)] {});
  } else {
    loop_.post([process = std::move(process)] {});
  }
}

}  // namespace granary::shim
