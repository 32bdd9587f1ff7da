// SPDX-License-Identifier: Apache-2.0
// Task.Create: bundle and root file system into the guest, and back out of it where anything fails.
#include "agent/shim/sandbox_spec.h"
#include "agent/shim/task_events.h"
#include "agent/shim/task_service.h"
#include "vmpool/base/container_id.h"
#include "vmpool/base/log.h"

namespace granary::shim {
namespace {

namespace task = containerd::task::v3;

}  // namespace

Result<TaskService::Container*> TaskService::admit(const Caller& caller, const task::CreateTaskRequest& request) {
  const std::string& id = request.id();
  if (!is_id(id))
    return rpc_error(Rpc::kInvalidArgument,
                     "container id \"" + id.substr(0, kMaxIdBytes) + "\": 1 to 128 of a-z A-Z 0-9 _ . -");
  if (containers_.contains(id)) return rpc_error(Rpc::kAlreadyExists, "container " + id + " exists already");
  if (clone_gone_) return rpc_error(Rpc::kFailedPrecondition, "the pod's clone has ended: " + clone_gone_->message());
  if (containers_.size() >= kMaxContainers) {
    return rpc_error(Rpc::kResourceExhausted, "the pod has " + std::to_string(kMaxContainers) + " containers already");
  }
  if (!request.checkpoint().empty())
    return rpc_error(Rpc::kUnimplemented, "containers cannot be restored from checkpoints");
  Container container{.id = id,
                      .bundle = request.bundle(),
                      .containerd_namespace = caller.containerd_namespace,
                      .process = {},
                      .execs = {},
                      .exec_requests = {},
                      .files = {},
                      .spec = {}};
  container.process = std::make_shared<Process>(
      loop_, pod_.guest_socket, "container " + id,
      Streams{.in = request.stdin(), .out = request.stdout(), .err = request.stderr(), .terminal = request.terminal()},
      Process::Events{.exited = [this, id] { on_exited(id, ""); },
                      .out_of_memory =
                          [this, id] {
                            containerd::events::TaskOOM event;
                            event.set_container_id(id);
                            if (const auto found = find(id); found) publish(**found, event);
                          }});
  return &containers_.emplace(id, std::move(container)).first->second;
}

// The answer is given here, or by what it starts, unless it fails.
Status TaskService::prepare(Container& container, const task::CreateTaskRequest& request, Answer& answer) {
  GRANARY_TRY(translate(container, request));
  GRANARY_TRY(container.process->open_streams());
  if (is_block_root(request.rootfs())) return prepare_disk(container, request, answer);
  const bool is_mounted = request.rootfs().empty() && container.spec->host_root.starts_with('/');
  if (is_mounted) return prepare_shared(container, request, container.spec->host_root, false, answer);
  return prepare_directory(container, request, answer);
}

Status TaskService::translate(Container& container, const task::CreateTaskRequest& request) {
  const std::string config = GRANARY_TRY(read_file(request.bundle() + "/config.json", kMaxSpecBytes + 1));
  const auto share_path = [&](const std::string& path, bool read_only) -> Result<std::string> {
    return Shares::path_in_guest(GRANARY_TRY(share(container, path, read_only)));
  };
  container.spec = std::make_shared<GuestSpec>(GRANARY_TRY(translate_spec(config, {.container_id = request.id(),
                                                                                   .sandbox_id = pod_.sandbox_id,
                                                                                   .terminal = request.terminal(),
                                                                                   .share = share_path})));
  return ok();
}

Result<std::string> TaskService::share(Container& container, const std::string& host_path, bool read_only) {
  std::string name = GRANARY_TRY(shares_.add(host_path, read_only));
  container.files.shares.push_back(name);
  return name;
}

Status TaskService::prepare_directory(Container& container, const task::CreateTaskRequest& request, Answer& answer) {
  container.files.root = GRANARY_TRY(MountedRoot::mount(request.rootfs(), request.bundle() + "/rootfs"));
  const MountedRoot& root = *container.files.root;
  return prepare_shared(container, request, root.path(), root.read_only(), answer);
}

Status TaskService::prepare_shared(Container& container, const task::CreateTaskRequest& request,
                                   const std::string& path, bool read_only, Answer& answer) {
  guest::v1::Rootfs rootfs;
  rootfs.set_directory(Shares::path_in_guest(GRANARY_TRY(share(container, path, read_only))));
  create_in_guest(request.id(), std::move(rootfs), created_event(request, pid_).SerializeAsString(), std::move(answer));
  return ok();
}

Status TaskService::prepare_disk(Container& /*container*/, const task::CreateTaskRequest& request, Answer& answer) {
  BlockRoot root = GRANARY_TRY(open_block_root(request.rootfs()));
  const int file = root.file.get();
  const bool read_only = root.read_only;
  disks_.attach(file, read_only,
                [this, request, id = request.id(), root = std::make_shared<BlockRoot>(std::move(root)),
                 event = created_event(request, pid_).SerializeAsString(),
                 answer = std::move(answer)](const Result<uint32_t>& disk) mutable {
                  if (!disk && to_rpc(disk.error()).code == Rpc::kResourceExhausted) {
                    root.reset();
                    return share_instead(request, answer);
                  }
                  if (const Status kept = keep_disk(id, disk); !kept) return answer(kept.error());
                  guest::v1::Rootfs rootfs;
                  rootfs.mutable_block()->set_disk(*disk);
                  rootfs.mutable_block()->set_type(root->type);
                  for (const std::string& option : root->options) rootfs.mutable_block()->add_options(option);
                  create_in_guest(id, std::move(rootfs), event, std::move(answer));
                });
  return ok();
}

// No disk of the clone is free.
void TaskService::share_instead(const task::CreateTaskRequest& request, Answer& answer) {
  const auto found = containers_.find(request.id());
  Status prepared =
      clone_gone_.value_or(Error(Errc::kCloneGone, "container " + request.id() + " is not wanted any more"));
  if (found != containers_.end() && found->second.process->phase() == Phase::kCreating)
    prepared = prepare_directory(found->second, request, answer);
  if (prepared) return;
  abandon(request.id());
  answer(prepared.error());
}

// Once the guest has let go of them, or is gone.
void TaskService::release(HostFiles files) {
  if (files.disk && !clone_gone_) disks_.detach(*files.disk);
  for (const std::string& name : files.shares) {
    const Status removed = shares_.remove(name);
    if (removed) continue;
    if (!clone_gone_) log_line(LogLevel::kError, "share %s: %s", name.c_str(), removed.error().message().c_str());
    // The others would wait as long, and this thread is all there is.
    if (removed.error().is(Errc::kDeadlineExceeded)) break;
  }
}

// The agent's answer. The clone may have ended meanwhile, and the container been deleted.
Status TaskService::keep_disk(const std::string& id, const Result<uint32_t>& disk) {
  const auto found = containers_.find(id);
  if (disk && found != containers_.end() && found->second.process->phase() == Phase::kCreating) {
    found->second.files.disk = *disk;
    return ok();
  }
  if (disk) disks_.detach(*disk);
  abandon(id);
  if (!disk) return disk.error();
  return clone_gone_.value_or(Error(Errc::kCloneGone, "container " + id + " is not wanted any more"));
}

void TaskService::create_in_guest(const std::string& id, guest::v1::Rootfs rootfs, const std::string& created,
                                  Answer answer) {
  Container& container = containers_.at(id);
  guest::v1::Request request;
  auto& create = *request.mutable_container_create();
  create.set_container_id(id);
  create.set_spec(container.spec->json);
  *create.mutable_rootfs() = std::move(rootfs);
  create.set_has_stdin(!container.process->streams().in.empty());
  if (container.spec->rows > 0 && container.spec->columns > 0) {
    create.mutable_window_size()->set_rows(container.spec->rows);
    create.mutable_window_size()->set_columns(container.spec->columns);
  }
  container.spec.reset();
  container.process->create(request, [this, id, created, answer = std::move(answer)](const Status& done) {
    if (!done) {
      abandon(id);
      return answer(done.error());
    }
    containerd::events::TaskCreate event;
    event.ParseFromString(created);
    publish(containers_.at(id), event);
    task::CreateTaskResponse response;
    response.set_pid(pid_);
    answer(response.SerializeAsString());
  });
}

// A container that could not be created: nothing of it stays here, nor, whatever the guest says, in the guest.
void TaskService::abandon(const std::string& id) {
  const auto found = containers_.find(id);
  if (found == containers_.end()) return;
  guest::v1::Request request;
  request.mutable_container_delete()->set_container_id(id);
  request.mutable_container_delete()->set_force(true);
  // A function object must be copyable; what it holds is not.
  auto files = std::make_shared<HostFiles>(std::move(found->second.files));
  slow_control_.ask(request, [this, files](const Result<guest::v1::Reply>&) { release(std::move(*files)); });
  let_go_of(std::move(found->second.process));
  containers_.erase(found);
}

void TaskService::create(const Caller& caller, const std::string& payload, Answer& answer) {
  task::CreateTaskRequest request;
  if (!request.ParseFromString(payload)) return answer(rpc_error(Rpc::kInvalidArgument, "no CreateTaskRequest"));
  const Result<Container*> container = admit(caller, request);
  if (!container) return answer(container.error());
  if (const Status prepared = prepare(**container, request, answer); !prepared) {
    abandon(request.id());
    answer(prepared.error());
  }
}

}  // namespace granary::shim
