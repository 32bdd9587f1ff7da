// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/task_service.h"

#include <unistd.h>

#include "agent/shim/timestamp.h"
#include "containerd/events.pb.h"
#include "vmpool/base/container_id.h"
#include "vmpool/base/log.h"

namespace granary::shim {

TaskService::TaskService(EventLoop& loop, Pod pod, std::function<void()> clone_gone)
    : loop_(loop),
      pod_(std::move(pod)),
      tell_clone_gone_(std::move(clone_gone)),
      control_(loop, pod_.guest_socket, [this](const Error& why) { on_clone_gone(why); }),
      slow_control_(loop, pod_.guest_socket, [this](const Error& why) { on_clone_gone(why); }),
      disks_(loop, pod_.agent_socket, pod_.clone_id),
      shares_(pod_.guest_socket),
      events_(loop, pod_.events_socket),
      pid_(static_cast<uint32_t>(::getpid())) {}

TaskService::~TaskService() = default;

void TaskService::open() {
  control_.open();
  slow_control_.open();
}

void TaskService::handle(ttrpc::Call call, ttrpc::Answer answer) {
  const Result<Caller> caller = caller_of(call);
  if (!caller) return answer(caller.error());
  const auto method = methods().find(call.method);
  if (method == methods().end()) return answer(unknown_method(call));
  (this->*method->second)(*caller, call.payload, answer);
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

// Each of the two conversations with its init tells, whichever ends first.
void TaskService::on_clone_gone(const Error& why) {
  if (clone_gone_) return;
  log_line(LogLevel::kError, "the clone has gone: %s", why.message().c_str());
  clone_gone_ = why;
  // What ends while it is created takes its container out of containers_.
  std::vector<std::shared_ptr<Process>> all;
  for (const auto& [id, container] : containers_) {
    for (const auto& [exec_id, exec] : container.execs) all.push_back(exec);
    all.push_back(container.process);
  }
  for (const auto& process : all) process->end(why);
  tell_clone_gone_();
}

void TaskService::set_pod(const guest::v1::Pod& pod, std::function<void(Status)> done) {
  guest::v1::Request request;
  *request.mutable_pod() = pod;
  slow_control_.ask(request, [done = std::move(done)](const Result<guest::v1::Reply>& reply) {
    reply ? done(ok()) : done(reply.error());
  });
}

void TaskService::power_off() {
  guest::v1::Request request;
  request.mutable_power_off();
  control_.ask(request, [](const Result<guest::v1::Reply>&) {});
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
