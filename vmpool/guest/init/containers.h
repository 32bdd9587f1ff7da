// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vmpool/guest/init/container_task.h"
#include "vmpool/guest/init/system.h"

namespace granary::guest {

// The guest's containers by their names, and what they share. Lives on the event loop's thread, as long as the server.
class Containers {
 public:
  static constexpr size_t kMostContainers = 256;

  Containers(EventLoop& loop, Reaper& reaper, System& system, ContainerPaths paths)
      : loop_(loop), reaper_(reaper), system_(system), paths_(std::move(paths)) {}

  // Errors, for failure(): EEXIST, kInvalidArgument, ENOENT (of exec), those of a fork.
  Result<std::unique_ptr<ContainerTask>> create(v1::ContainerCreate request, Task::Owner owner);
  Result<std::unique_ptr<Task>> exec(const v1::Exec& request, Task::Owner owner);
  // Pod, ContainerKill, ContainerDelete, ContainerUpdate, ContainerFreeze, ContainerQuery.
  void handle(const v1::Request& request, const Answer& answer);

 private:
  void set_pod(const v1::Pod& pod, const Answer& answer);
  void remove(const v1::ContainerDelete& request, const Answer& answer);
  void update(const v1::ContainerUpdate& request, const Answer& answer);
  void freeze(const v1::ContainerFreeze& request, const Answer& answer);
  v1::Reply query(const v1::ContainerQuery& request);
  void run_errand(const std::function<Status()>& work, const Answer& answer);
  Status make_folders() const;
  Result<Container*> find(const std::string& id);
  void forget(Container& container);

  EventLoop& loop_;
  Reaper& reaper_;
  System& system_;
  const ContainerPaths paths_;
  std::map<std::string, std::unique_ptr<Container>> containers_;
  std::vector<std::unique_ptr<Container>> gone_;  // until the loop has the turn
  uint64_t next_errand_ = 1;
  std::map<uint64_t, std::unique_ptr<Errand>> errands_;
};

}  // namespace granary::guest
