// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "vmpool/guest/init/container.h"
#include "vmpool/guest/init/task.h"

namespace granary::guest {

// A container's conversation: ContainerCreated or Failure, then on request Started, then its streams, at last Exited.
class ContainerTask final : public Task {
 public:
  // `container` lives until it told the Task of its end.
  ContainerTask(EventLoop& loop, Container& container, Owner owner);
  ~ContainerTask() override;

  // Answered by Started or a Failure.
  void start();

 private:
  void on_created(pid_t pid, Streams streams);
  void send_signal(int number) override;

  Container* container_;  // none once its process has ended, or it could not be created
  std::shared_ptr<ContainerTask*> self_ = std::make_shared<ContainerTask*>(this);  // null once it is gone
};

// A process in a container that runs.
class ContainerExec final : public Task {
 public:
  // Errors: kInvalidArgument for a request that makes no sense, those of a call of crun. The owner is told Started or a
  // Failure. Dropped before it ended it is hung up on and killed.
  static Result<std::unique_ptr<ContainerExec>> start(EventLoop& loop, Reaper& reaper, const ContainerPaths& paths,
                                                      const v1::Exec& request, Owner owner);
  ~ContainerExec() override;

 private:
  // A call of crun goes on without the one who asked for it, or nobody would know of the process that it leaves.
  struct Call {
    std::unique_ptr<CrunCall> crun;
    ContainerExec* asker = nullptr;
  };
  ContainerExec(EventLoop& loop, Reaper& reaper, const v1::Exec& request, Owner owner);
  void on_called(const Status& status);
  Status take_process(Streams& streams);
  // To the process group.
  void send_signal(int number) override;

  Reaper& reaper_;
  const v1::WindowSize window_size_;
  bool on_terminal_ = false;
  std::shared_ptr<Call> call_;
  pid_t pid_ = 0;
};

}  // namespace granary::guest
