// SPDX-License-Identifier: Apache-2.0
// The methods of the Task service but Create: each parses its request, checks that it is possible now, and answers.
#include <csignal>

#include "agent/shim/task_service.h"
#include "agent/shim/timestamp.h"
#include "containerd/events.pb.h"
#include "containerd/metrics.pb.h"
#include "vmpool/base/container_id.h"

namespace granary::shim {
namespace {

namespace task = containerd::task::v3;

constexpr uint32_t kKilledStatus = 128 + SIGKILL;
constexpr uint32_t kMostSignal = 64;

template <class Request>
Result<Request> parse(const std::string& payload) {
  Request request;
  if (!request.ParseFromString(payload)) return rpc_error(Rpc::kInvalidArgument, "no " + request.GetTypeName());
  return request;
}

std::string empty() { return {}; }

task::Status status_of(Phase phase) {
  switch (phase) {
    case Phase::kCreating:
      return task::UNKNOWN;
    case Phase::kCreated:
    case Phase::kStarting:
      return task::CREATED;
    case Phase::kRunning:
      return task::RUNNING;
    default:
      return task::STOPPED;
  }
}

guest::v1::Limits to_guest(const GuestLimits& from) {
  guest::v1::Limits to;
  to.set_memory_bytes(from.memory_bytes);
  to.set_cpu_quota_us(from.cpu_quota_us);
  to.set_cpu_period_us(from.cpu_period_us);
  to.set_cpu_weight(from.cpu_weight);
  to.set_pids(from.pids);
  return to;
}

io::containerd::cgroups::v2::Metrics to_metrics(const guest::v1::ContainerState& state) {
  io::containerd::cgroups::v2::Metrics metrics;
  metrics.mutable_pids()->set_current(state.pids_current());
  metrics.mutable_pids()->set_limit(state.pids_limit());
  metrics.mutable_cpu()->set_usage_usec(state.cpu_usage_us());
  metrics.mutable_cpu()->set_user_usec(state.cpu_user_us());
  metrics.mutable_cpu()->set_system_usec(state.cpu_system_us());
  metrics.mutable_cpu()->set_throttled_usec(state.cpu_throttled_us());
  auto& memory = *metrics.mutable_memory();
  memory.set_usage(state.memory_bytes());
  memory.set_usage_limit(state.memory_limit_bytes() != 0 ? state.memory_limit_bytes() : UINT64_MAX);
  memory.set_anon(state.memory_anon_bytes());
  memory.set_file(state.memory_file_bytes());
  memory.set_inactive_file(state.memory_inactive_file_bytes());
  memory.set_pgfault(state.page_faults());
  memory.set_pgmajfault(state.major_page_faults());
  metrics.mutable_memory_events()->set_oom_kill(state.oom_kills());
  auto& io = *metrics.mutable_io()->add_usage();
  io.set_rbytes(state.block_read_bytes());
  io.set_wbytes(state.block_written_bytes());
  return metrics;
}

}  // namespace

const std::map<std::string, TaskService::Method>& TaskService::methods() {
  static const std::map<std::string, Method> kMethods = {
      {"Create", &TaskService::create},    {"Start", &TaskService::start},
      {"Delete", &TaskService::remove},    {"Kill", &TaskService::kill},
      {"Exec", &TaskService::exec},        {"Wait", &TaskService::wait},
      {"State", &TaskService::state},      {"Pids", &TaskService::pids},
      {"CloseIO", &TaskService::close_io}, {"ResizePty", &TaskService::resize_pty},
      {"Update", &TaskService::update},    {"Stats", &TaskService::stats},
      {"Connect", &TaskService::connect},  {"Shutdown", &TaskService::shutdown},
      {"Pause", &TaskService::pause},      {"Resume", &TaskService::resume}};
  return kMethods;
}

void TaskService::start(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::StartRequest>(payload);
  if (!request) return answer(request.error());
  const auto process = find(request->id(), request->exec_id(), Operation::kStart);
  if (!process) return answer(process.error());
  Container& container = containers_.at(request->id());
  if (!request->exec_id().empty()) return start_exec(container, request->exec_id(), std::move(answer));
  start_container(container, std::move(answer));
}

void TaskService::start_container(Container& container, Answer answer) {
  guest::v1::Request request;
  request.mutable_container_start();
  container.process->start(request, [this, id = container.id, answer = std::move(answer)](const Status& done) {
    if (!done) return answer(done.error());
    containerd::events::TaskStart event;
    event.set_container_id(id);
    event.set_pid(pid_);
    publish(containers_.at(id), event);
    task::StartResponse response;
    response.set_pid(pid_);
    answer(response.SerializeAsString());
  });
}

// It would be frozen as soon as it is in the container, and could not say that it has started.
Status TaskService::check_awake(const Container& container) {
  if (container.freeze == Freeze::kNone) return ok();
  return rpc_error(Rpc::kFailedPrecondition, "container " + container.id + " is paused: resume it first");
}

void TaskService::start_exec(Container& container, const std::string& exec_id, Answer answer) {
  if (const Status awake = check_awake(container); !awake) return answer(awake.error());
  const std::shared_ptr<Process> process = container.execs.at(exec_id);
  if (const Status opened = process->open_streams(); !opened) return answer(opened.error());
  const guest::v1::Request request = std::move(container.exec_requests.at(exec_id));
  container.exec_requests.erase(exec_id);
  process->start(request, [this, id = container.id, exec_id, answer = std::move(answer)](const Status& done) {
    if (!done) return answer(done.error());
    containerd::events::TaskExecStarted event;
    event.set_container_id(id);
    event.set_exec_id(exec_id);
    event.set_pid(pid_);
    publish(containers_.at(id), event);
    task::StartResponse response;
    response.set_pid(pid_);
    answer(response.SerializeAsString());
  });
}

void TaskService::exec(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::ExecProcessRequest>(payload);
  if (!request) return answer(request.error());
  const std::string& exec_id = request->exec_id();
  if (exec_id.empty() || exec_id.size() > kMaxIdBytes) {
    return answer(
        rpc_error(Rpc::kInvalidArgument, "an exec id of " + std::to_string(exec_id.size()) + " bytes; 1 to 128"));
  }
  const auto process = find(request->id(), "", Operation::kExec);
  if (!process) return answer(process.error());
  Container& container = containers_.at(request->id());
  if (const Status awake = check_awake(container); !awake) return answer(awake.error());
  if (container.execs.contains(exec_id)) {
    return answer(
        rpc_error(Rpc::kAlreadyExists, "exec " + exec_id + " in container " + container.id + " exists already"));
  }
  if (container.execs.size() >= kMaxExecs) {
    return answer(rpc_error(Rpc::kResourceExhausted, "container " + container.id + " has too many execs"));
  }
  const Result<GuestSpec> spec = translate_process(request->spec().value(), request->terminal());
  if (!spec) return answer(spec.error());
  auto& to_guest = *container.exec_requests[exec_id].mutable_exec();
  to_guest.set_container_id(container.id);
  to_guest.set_process(spec->json);
  to_guest.set_tty(request->terminal());
  to_guest.set_has_stdin(!request->stdin().empty());
  if (spec->rows > 0 && spec->columns > 0) {
    to_guest.mutable_window_size()->set_rows(spec->rows);
    to_guest.mutable_window_size()->set_columns(spec->columns);
  }
  auto made = std::make_shared<Process>(
      loop_, pod_.guest_socket, "exec " + exec_id + " in container " + container.id,
      Streams{
          .in = request->stdin(), .out = request->stdout(), .err = request->stderr(), .terminal = request->terminal()},
      Process::Events{.exited = [this, id = container.id, exec_id] { on_exited(id, exec_id); }});
  made->note_created();
  container.execs.emplace(exec_id, std::move(made));
  containerd::events::TaskExecAdded event;
  event.set_container_id(container.id);
  event.set_exec_id(exec_id);
  publish(container, event);
  answer(empty());
}

void TaskService::kill(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::KillRequest>(payload);
  if (!request) return answer(request.error());
  if (request->signal() == 0 || request->signal() > kMostSignal) {
    return answer(
        rpc_error(Rpc::kInvalidArgument, "signal " + std::to_string(request->signal()) + "; 1 to 64 are possible"));
  }
  const auto process = find(request->id(), request->exec_id(), Operation::kKill);
  if (!process) return answer(process.error());
  const bool kills = request->signal() == SIGKILL;
  if (!request->exec_id().empty()) {
    const Status sent = (*process)->signal(request->signal());
    if (sent && kills) (*process)->note_killed();
    return sent ? answer(empty()) : answer(sent.error());
  }
  guest::v1::Request question;
  question.mutable_container_kill()->set_container_id(request->id());
  question.mutable_container_kill()->set_signal(static_cast<int32_t>(request->signal()));
  question.mutable_container_kill()->set_all(request->all());
  control_.ask(question, [this, kills, id = request->id(), answer = std::move(answer)](const auto& reply) {
    const Result<Container*> killed = find(id);
    // Its end may be behind output that nobody reads.
    const bool has_ended = reply || to_rpc(reply.error()).code == Rpc::kNotFound;
    if (has_ended && kills && killed) (*killed)->process->note_killed();
    reply ? answer(empty()) : answer(reply.error());
  });
}

void TaskService::remove(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::DeleteRequest>(payload);
  if (!request) return answer(request.error());
  const auto process = find(request->id(), request->exec_id(), Operation::kDelete);
  if (!process) return answer(process.error());
  Container& container = containers_.at(request->id());
  if (!request->exec_id().empty()) return remove_exec(container, request->exec_id(), answer);
  remove_container(container, std::move(answer));
}

void TaskService::remove_exec(Container& container, const std::string& exec_id, const Answer& answer) {
  const auto found = container.execs.find(exec_id);
  task::DeleteResponse response;
  response.set_pid(pid_);
  if (const auto& exit = found->second->exit(); exit) {
    response.set_exit_status(exit->status);
    set_time(*response.mutable_exited_at(), exit->at);
  }
  let_go_of(std::move(found->second));
  container.execs.erase(found);
  container.exec_requests.erase(exec_id);
  answer(response.SerializeAsString());
}

void TaskService::remove_container(Container& container, Answer answer) {
  const bool stopped = container.process->phase() == Phase::kStopped;
  container.process->note_deleting();
  guest::v1::Request question;
  question.mutable_container_delete()->set_container_id(container.id);
  question.mutable_container_delete()->set_force(!stopped);
  slow_control_.ask(question,
                    [this, id = container.id, answer = std::move(answer)](const Result<guest::v1::Reply>& reply) {
                      const bool is_gone = reply || clone_gone_ || to_rpc(reply.error()).code == Rpc::kNotFound;
                      if (is_gone) return finish_removal(id, answer);
                      containers_.at(id).process->note_not_deleted();
                      answer(reply.error());
                    });
}

void TaskService::finish_removal(const std::string& id, const Answer& answer) {
  Container& container = containers_.at(id);
  const Exit exit = container.process->exit().value_or(Exit{kKilledStatus, std::chrono::system_clock::now()});
  release(std::move(container.files));
  // Who waits for an exec, or for a container that was never started, hears of it now or never.
  const Error deleted(Errc::kCloneGone, "container " + id + " is deleted");
  for (const auto& [exec_id, exec] : container.execs) exec->end(deleted);
  container.process->end(deleted);
  containerd::events::TaskDelete event;
  event.set_container_id(id);
  event.set_pid(pid_);
  event.set_exit_status(exit.status);
  set_time(*event.mutable_exited_at(), exit.at);
  publish(container, event);
  task::DeleteResponse response;
  response.set_pid(pid_);
  response.set_exit_status(exit.status);
  set_time(*response.mutable_exited_at(), exit.at);
  for (auto& [exec_id, exec] : container.execs) let_go_of(std::move(exec));
  let_go_of(std::move(container.process));
  containers_.erase(id);
  answer(response.SerializeAsString());
}

void TaskService::wait(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::WaitRequest>(payload);
  if (!request) return answer(request.error());
  const auto process = find(request->id(), request->exec_id(), Operation::kWait);
  if (!process) return answer(process.error());
  (*process)->when_ended([answer = std::move(answer)](const Exit& exit) {
    task::WaitResponse response;
    response.set_exit_status(exit.status);
    set_time(*response.mutable_exited_at(), exit.at);
    answer(response.SerializeAsString());
  });
}

void TaskService::state(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::StateRequest>(payload);
  if (!request) return answer(request.error());
  const auto process = find(request->id(), request->exec_id(), Operation::kState);
  if (!process) return answer(process.error());
  const Streams& streams = (*process)->streams();
  task::StateResponse response;
  response.set_id(request->id());
  response.set_exec_id(request->exec_id());
  response.set_bundle(containers_.at(request->id()).bundle);
  response.set_pid(pid_);
  const bool paused = containers_.at(request->id()).freeze == Freeze::kFrozen && (*process)->phase() == Phase::kRunning;
  response.set_status(paused ? task::PAUSED : status_of((*process)->phase()));
  response.set_stdin(streams.in);
  response.set_stdout(streams.out);
  response.set_stderr(streams.err);
  response.set_terminal(streams.terminal);
  if (const auto& exit = (*process)->exit(); exit) {
    response.set_exit_status(exit->status);
    set_time(*response.mutable_exited_at(), exit->at);
  }
  answer(response.SerializeAsString());
}

// At least one, or a containerd that restarts takes the task for one that leaked.
void TaskService::pids(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::PidsRequest>(payload);
  if (!request) return answer(request.error());
  const auto process = find(request->id(), "", Operation::kPids);
  if (!process) return answer(process.error());
  task::PidsResponse response;
  response.add_processes()->set_pid(pid_);
  answer(response.SerializeAsString());
}

void TaskService::close_io(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::CloseIORequest>(payload);
  if (!request) return answer(request.error());
  const auto process = find(request->id(), request->exec_id(), Operation::kCloseIo);
  if (!process) return answer(process.error());
  if (request->stdin()) (*process)->close_input();
  answer(empty());
}

void TaskService::resize_pty(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::ResizePtyRequest>(payload);
  if (!request) return answer(request.error());
  const auto process = find(request->id(), request->exec_id(), Operation::kResizePty);
  if (!process) return answer(process.error());
  if (!(*process)->streams().terminal) {
    return answer(rpc_error(Rpc::kFailedPrecondition, (*process)->name() + " has no terminal"));
  }
  const Status sent = (*process)->resize(request->height(), request->width());
  sent ? answer(empty()) : answer(sent.error());
}

void TaskService::update(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::UpdateTaskRequest>(payload);
  if (!request) return answer(request.error());
  const auto process = find(request->id(), "", Operation::kUpdate);
  if (!process) return answer(process.error());
  const Result<GuestLimits> limits = read_resources(request->resources().value());
  if (!limits) return answer(limits.error());
  guest::v1::Request question;
  question.mutable_container_update()->set_container_id(request->id());
  *question.mutable_container_update()->mutable_limits() = to_guest(*limits);
  slow_control_.ask(question, [answer = std::move(answer)](const Result<guest::v1::Reply>& reply) {
    reply ? answer(empty()) : answer(reply.error());
  });
}

void TaskService::stats(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::StatsRequest>(payload);
  if (!request) return answer(request.error());
  const auto process = find(request->id(), "", Operation::kStats);
  if (!process) return answer(process.error());
  guest::v1::Request question;
  question.mutable_container_query()->set_container_id(request->id());
  control_.ask(question, [answer = std::move(answer)](const Result<guest::v1::Reply>& reply) {
    if (!reply) return answer(reply.error());
    const auto metrics = to_metrics(reply->container_state());
    task::StatsResponse response;
    response.mutable_stats()->set_type_url(metrics.GetTypeName());
    response.mutable_stats()->set_value(metrics.SerializeAsString());
    answer(response.SerializeAsString());
  });
}

void TaskService::connect(const Caller& caller, const std::string& /*payload*/, Answer& answer) {
  task::ConnectResponse response;
  response.set_shim_pid(pid_);
  response.set_task_pid(pid_);
  response.set_version(caller.version);
  answer(response.SerializeAsString());
}

// Of a task: the shim is its sandbox's, and ends with it.
void TaskService::shutdown(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::ShutdownRequest>(payload);
  request ? answer(empty()) : answer(request.error());
}

void TaskService::pause(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::PauseRequest>(payload);
  request ? freeze(request->id(), true, std::move(answer)) : answer(request.error());
}

void TaskService::resume(const Caller& /*caller*/, const std::string& payload, Answer& answer) {
  const auto request = parse<task::ResumeRequest>(payload);
  request ? freeze(request->id(), false, std::move(answer)) : answer(request.error());
}

// Of one container: its pod's virtual CPUs are the other containers' too.
void TaskService::freeze(const std::string& id, bool frozen, Answer answer) {
  const auto process = find(id, "", Operation::kPause);
  if (!process) return answer(process.error());
  Container& known = containers_.at(id);
  if (frozen && known.freeze != Freeze::kNone) {
    return answer(rpc_error(Rpc::kFailedPrecondition, "container " + id + " is paused"));
  }
  // From now on nothing is started in it. One that is resumed is asked in any case: a Pause that failed may have had an
  // effect.
  const bool was_frozen = known.freeze == Freeze::kFrozen;
  known.freeze = Freeze::kAsked;
  guest::v1::Request question;
  question.mutable_container_freeze()->set_container_id(id);
  question.mutable_container_freeze()->set_frozen(frozen);
  const auto done = [this, id, frozen, was_frozen, answer = std::move(answer)](const Result<guest::v1::Reply>& reply) {
    const auto container = find(id);
    if (!reply) {
      if (container && frozen) thaw(id);
      if (container && !frozen) (*container)->freeze = was_frozen ? Freeze::kFrozen : Freeze::kNone;
      return answer(reply.error());
    }
    if (container) {
      (*container)->freeze = frozen ? Freeze::kFrozen : Freeze::kNone;
      containerd::events::TaskPaused paused;
      containerd::events::TaskResumed resumed;
      paused.set_container_id(id);
      resumed.set_container_id(id);
      if (frozen) publish(**container, paused);
      if (!frozen && was_frozen) publish(**container, resumed);
    }
    answer(empty());
  };
  slow_control_.ask(question, done);
}

// After a Pause that failed, of which nobody knows how far it came.
void TaskService::thaw(const std::string& id) {
  guest::v1::Request question;
  question.mutable_container_freeze()->set_container_id(id);
  slow_control_.ask(question, [this, id](const Result<guest::v1::Reply>& /*reply*/) {
    if (const auto container = find(id); container) (*container)->freeze = Freeze::kNone;
  });
}

}  // namespace granary::shim
