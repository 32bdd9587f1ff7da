// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/task.h"

#include <signal.h>

namespace granary::guest {

Task::Task(EventLoop& loop, Owner owner)
    : owner_(std::move(owner)),
      streams_(loop, {.output = [this](const v1::Reply& data) { owner_.reply(data); },
                      .wants_input = [this] { owner_.wants_input(); },
                      .drained = [this] { finish_if_drained(); }}) {}

void Task::run() {
  open_ = true;
  streams_.start();
}

bool Task::signal(int number) {
  if (number < 1 || number >= NSIG) return false;
  // After its end the number may belong to somebody else.
  if (open_ && !ending_) send_signal(number);
  return true;
}

void Task::fail(const v1::Reply& failure) {
  ended_ = true;
  streams_.drop();
  owner_.reply(failure);
}

void Task::process_ended(Reaper::Ending ending) {
  ending_ = ending;
  streams_.start();
  streams_.process_ended();
  finish_if_drained();
  owner_.wants_input();
}

void Task::finish_if_drained() {
  if (!ending_ || ended_ || !streams_.drained()) return;
  ended_ = true;
  v1::Reply reply;
  reply.mutable_exited()->set_signal(ending_->signal);
  reply.mutable_exited()->set_status(ending_->signal != 0 ? 128 + ending_->signal : ending_->code);
  owner_.reply(reply);
}

}  // namespace granary::guest
