// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/container_task.h"

#include <signal.h>

#include <cerrno>

#include "vmpool/guest/init/container_spec.h"
#include "vmpool/guest/init/failure.h"

namespace granary::guest {

ContainerTask::ContainerTask(EventLoop& loop, Container& container, Owner owner)
    : Task(loop, std::move(owner)), container_(&container) {
  container.listen({.created = [this](pid_t pid, Streams streams) { on_created(pid, std::move(streams)); },
                    .failed =
                        [this](const v1::Reply& failure) {
                          container_ = nullptr;
                          fail(failure);
                        },
                    .out_of_memory =
                        [this] {
                          v1::Reply reply;
                          reply.mutable_out_of_memory();
                          say(reply);
                        },
                    .ended =
                        [this](Reaper::Ending ending) {
                          container_ = nullptr;
                          process_ended(ending);
                        }});
}

ContainerTask::~ContainerTask() {
  *self_ = nullptr;
  if (container_ != nullptr) container_->abandon();
}

void ContainerTask::on_created(pid_t pid, Streams streams) {
  take_streams(std::move(streams));
  open();
  v1::Reply reply;
  reply.mutable_container_created()->set_pid(pid);
  say(reply);
  ask_for_input();
}

void ContainerTask::start() {
  if (container_ == nullptr) return say(failure(v1::Failure::NOT_FOUND, "the container has ended"));
  container_->start([self = self_](const v1::Reply& reply) {
    if (*self == nullptr) return;
    (*self)->say(reply);
    if (reply.has_started()) (*self)->run();
  });
}

void ContainerTask::send_signal(int number) {
  if (container_ != nullptr && container_->pid() > 0) ::kill(container_->pid(), number);
}

ContainerExec::ContainerExec(EventLoop& loop, Reaper& reaper, const v1::Exec& request, Owner owner)
    : Task(loop, std::move(owner)), reaper_(reaper), window_size_(request.window_size()) {}

Result<std::unique_ptr<ContainerExec>> ContainerExec::start(EventLoop& loop, Reaper& reaper,
                                                            const ContainerPaths& paths, const v1::Exec& request,
                                                            Owner owner) {
  OciJson json = GRANARY_TRY(make_process_json(request.process(), request.tty()));
  std::unique_ptr<ContainerExec> exec(new ContainerExec(loop, reaper, request, std::move(owner)));
  exec->on_terminal_ = json.terminal;
  CrunCall::Settings settings;
  settings.arguments = {"exec", "--detach"};
  settings.has_stdin = request.has_stdin();
  settings.leaves_process = true;
  settings.on_terminal = json.terminal;
  settings.process = std::move(json.text);
  settings.target = request.container_id();
  auto call = std::make_shared<Call>();
  call->asker = exec.get();
  call->crun = GRANARY_TRY(CrunCall::start(reaper, paths, std::move(settings), [call](const Status& status) {
    if (call->asker != nullptr) {
      call->asker->on_called(status);
    } else if (status) {
      const Result<pid_t> pid = call->crun->adopt_process([](Reaper::Ending) {});
      if (pid) ::kill(*pid, SIGKILL);
    }
    call->crun.reset();
  }));
  exec->call_ = std::move(call);
  return exec;
}

ContainerExec::~ContainerExec() {
  if (call_) call_->asker = nullptr;
  if (pid_ > 0 && !process_has_ended()) reaper_.condemn(pid_);
}

Status ContainerExec::take_process(Streams& streams) {
  pid_ = GRANARY_TRY(call_->crun->adopt_process([this](Reaper::Ending ending) { process_ended(ending); }));
  streams = GRANARY_TRY(call_->crun->take_streams());
  if (on_terminal_) set_window_size(streams.terminal.get(), window_size_);
  return ok();
}

void ContainerExec::on_called(const Status& status) {
  Streams streams;
  const Status taken = status ? take_process(streams) : status;
  if (!taken) {
    fail(failure(taken.error()));
  } else {
    take_streams(std::move(streams));
    v1::Reply reply;
    reply.mutable_started()->set_pid(pid_);
    say(reply);
    run();
  }
  ask_for_input();
}

// crun makes a group of its own for terminals alone.
void ContainerExec::send_signal(int number) {
  if (::kill(-pid_, number) != 0 && errno == ESRCH) ::kill(pid_, number);
}

}  // namespace granary::guest
