// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/command.h"

#include <signal.h>
#include <sys/epoll.h>

#include "vmpool/guest/init/failure.h"

namespace granary::guest {

Command::Command(EventLoop& loop, Reaper& reaper, v1::Exec request, Owner owner)
    : Task(loop, std::move(owner)), reaper_(reaper), request_(std::move(request)), outcome_watch_(loop) {}

Result<std::unique_ptr<Command>> Command::start(EventLoop& loop, Reaper& reaper, v1::Exec request, Owner owner) {
  std::unique_ptr<Command> command(new Command(loop, reaper, std::move(request), std::move(owner)));
  Spawned spawned = GRANARY_TRY(spawn(command->request_));
  GRANARY_TRY(command->adopt(std::move(spawned)));
  return command;
}

Status Command::adopt(Spawned spawned) {
  pid_ = spawned.pid;
  reaper_.watch(pid_, [this](Reaper::Ending ending) { on_ending(ending); });
  outcome_ = std::move(spawned.outcome);
  take_streams(std::move(spawned.streams));
  return outcome_watch_.start(outcome_.get(), EPOLLIN, [this](uint32_t) { on_outcome(); });
}

Command::~Command() {
  if (pid_ > 0 && !process_has_ended()) reaper_.condemn(pid_);
}

void Command::on_outcome() {
  outcome_watch_.stop();
  const Status result = spawn_result(outcome_.get(), request_);
  outcome_.reset();
  if (!result) {
    fail(failure(result.error()));
  } else {
    v1::Reply reply;
    reply.mutable_started()->set_pid(pid_);
    say(reply);
    run();
  }
  ask_for_input();
}

void Command::on_ending(Reaper::Ending ending) {
  if (outcome_.valid()) on_outcome();
  process_ended(ending);
}

void Command::send_signal(int number) { ::kill(-pid_, number); }

}  // namespace granary::guest
