// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "vmpool/guest/init/task.h"

namespace granary::guest {

// One exec'ed process of the guest itself. Dropped before it ended it is hung up on and killed, and its whole session.
class Command final : public Task {
 public:
  // Errors as spawn() has them. The owner is told Started or a Failure.
  static Result<std::unique_ptr<Command>> start(EventLoop& loop, Reaper& reaper, v1::Exec request, Owner owner);
  ~Command() override;

 private:
  Command(EventLoop& loop, Reaper& reaper, v1::Exec request, Owner owner);
  Status adopt(Spawned spawned);
  void on_outcome();
  void on_ending(Reaper::Ending ending);
  // To the process group.
  void send_signal(int number) override;

  Reaper& reaper_;
  const v1::Exec request_;
  pid_t pid_ = 0;
  Fd outcome_;
  Watch outcome_watch_;
};

}  // namespace granary::guest
