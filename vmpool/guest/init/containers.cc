// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/containers.h"

#include <sys/stat.h>

#include "vmpool/guest/init/cgroup.h"
#include "vmpool/guest/init/container_spec.h"
#include "vmpool/guest/init/failure.h"
#include "vmpool/guest/init/pod.h"

namespace granary::guest {

Status Containers::make_folders() const {
  for (const std::string& folder : {paths_.run, paths_.run + "/containers", paths_.calls()}) {
    if (::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) return Error::last_os_error("make " + folder);
  }
  return cgroup::make(paths_.pod_cgroup());
}

Result<Container*> Containers::find(const std::string& id) {
  GRANARY_TRY(check_container_id(id));
  const auto found = containers_.find(id);
  if (found == containers_.end()) return Error::from_errno(ENOENT, "container " + id);
  return found->second.get();
}

Result<std::unique_ptr<ContainerTask>> Containers::create(v1::ContainerCreate request, Task::Owner owner) {
  GRANARY_TRY(check_container_id(request.container_id()));
  if (containers_.contains(request.container_id())) {
    return Error::from_errno(EEXIST, "container " + request.container_id() + " is there already");
  }
  if (containers_.size() >= kMostContainers) {
    return Error(Errc::kInvalidArgument, std::to_string(kMostContainers) + " containers are there: delete one first");
  }
  GRANARY_TRY(make_folders());
  const Container::Surroundings around{loop_, reaper_, paths_, [this](Container& container) { forget(container); }};
  std::unique_ptr<Container> container = GRANARY_TRY(Container::create(around, std::move(request)));
  auto task = std::make_unique<ContainerTask>(loop_, *container, std::move(owner));
  const std::string id = container->id();
  containers_.emplace(id, std::move(container));
  return task;
}

void Containers::forget(Container& container) {
  const auto found = containers_.find(container.id());
  gone_.push_back(std::move(found->second));
  containers_.erase(found);
  loop_.post([this] { gone_.clear(); });
}

Result<std::unique_ptr<Task>> Containers::exec(const v1::Exec& request, Task::Owner owner) {
  const Container* container = GRANARY_TRY(find(request.container_id()));
  if (!container->running()) {
    return Error(Errc::kInvalidArgument, "exec: container " + request.container_id() + " does not run");
  }
  return std::unique_ptr<Task>(GRANARY_TRY(ContainerExec::start(loop_, reaper_, paths_, request, std::move(owner))));
}

void Containers::handle(const v1::Request& request, const Answer& answer) {
  switch (request.kind_case()) {
    case v1::Request::kPod:
      return set_pod(request.pod(), answer);
    case v1::Request::kContainerKill: {
      const Result<Container*> container = find(request.container_kill().container_id());
      return answer(container ? (*container)->kill(request.container_kill().signal(), request.container_kill().all())
                              : failure(container.error()));
    }
    case v1::Request::kContainerDelete:
      return remove(request.container_delete(), answer);
    case v1::Request::kContainerUpdate:
      return update(request.container_update(), answer);
    case v1::Request::kContainerFreeze:
      return freeze(request.container_freeze(), answer);
    default:
      return answer(query(request.container_query()));
  }
}

void Containers::set_pod(const v1::Pod& pod, const Answer& answer) {
  if (const Status good = check_pod(pod); !good) return answer(failure(good.error()));
  std::string name = pod.hostname();
  while (!name.empty() && name.back() == '\n') name.pop_back();
  if (!name.empty()) {
    if (const Status named = system_.set_hostname(name); !named) return answer(failure(named.error()));
  }
  run_errand([this, &pod] { return apply_pod(pod, paths_); }, answer);
}

void Containers::remove(const v1::ContainerDelete& request, const Answer& answer) {
  const Result<Container*> container = find(request.container_id());
  if (container) return (*container)->remove(request.force(), answer);
  // What is asked for with force has come about.
  if (!request.force() || !container.error().is_errno(ENOENT)) return answer(failure(container.error()));
  v1::Reply done;
  done.mutable_done();
  answer(done);
}

void Containers::update(const v1::ContainerUpdate& request, const Answer& answer) {
  const Result<Container*> container = find(request.container_id());
  if (!container) return answer(failure(container.error()));
  const std::string folder = (*container)->cgroup();
  run_errand([&] { return cgroup::set_limits(folder, request.limits()); }, answer);
}

void Containers::freeze(const v1::ContainerFreeze& request, const Answer& answer) {
  const Result<Container*> container = find(request.container_id());
  if (!container) return answer(failure(container.error()));
  const std::string folder = (*container)->cgroup();
  run_errand([&] { return request.frozen() ? cgroup::freeze(folder) : cgroup::thaw(folder); }, answer);
}

v1::Reply Containers::query(const v1::ContainerQuery& request) {
  std::string folder = paths_.pod_cgroup();
  if (!request.container_id().empty()) {
    const Result<Container*> container = find(request.container_id());
    if (!container) return failure(container.error());
    folder = (*container)->cgroup();
  }
  v1::Reply reply;
  *reply.mutable_container_state() = cgroup::read_state(folder);
  return reply;
}

void Containers::run_errand(const std::function<Status()>& work, const Answer& answer) {
  const uint64_t number = next_errand_++;
  Result<std::unique_ptr<Errand>> errand = Errand::run(reaper_, work, [this, number, answer](const Status& status) {
    errands_.erase(number);
    v1::Reply done;
    done.mutable_done();
    answer(status ? done : failure(status.error()));
  });
  if (!errand) return answer(failure(errand.error()));
  errands_.emplace(number, std::move(*errand));
}

}  // namespace granary::guest
