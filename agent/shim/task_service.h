// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>

#include "agent/shim/caller.h"
#include "agent/shim/clone_disks.h"
#include "agent/shim/event_publisher.h"
#include "agent/shim/guest_control.h"
#include "agent/shim/oci_spec.h"
#include "agent/shim/process.h"
#include "agent/shim/rootfs.h"
#include "agent/shim/shares.h"
#include "agent/shim/ttrpc_server.h"
#include "containerd/task.pb.h"

namespace granary::shim {

// What a shim is started for.
struct Pod {
  std::string sandbox_id;
  std::string clone_id;
  std::string guest_socket;   // of the clone: "CONNECT <port>\n" reaches the guest
  std::string agent_socket;   // where granaryd answers shims
  std::string events_socket;  // containerd's TTRPC_ADDRESS; empty: it does not want events
  std::string netns = {};     // path of its network namespace; empty: none, so no port-forward
};

// containerd's Task service (containerd.task.v3.Task, and v2, whose messages are the same) for the containers of one
// pod. One thread; calls that wait for the guest or for an exit are answered later. Process ids are the shim's own
// everywhere: those of a guest would name other processes on the host. Which operation is possible when: task_state.h.
// Errors are RPC codes with a text for people; whatever fails in Create leaves nothing behind.
class TaskService {
 public:
  static constexpr size_t kMaxContainers = 256;
  static constexpr size_t kMaxExecs = 1024;  // of a container

  // `clone_gone`: once, after all processes have ended with it.
  TaskService(
      EventLoop& loop, Pod pod, std::function<void()> clone_gone = [] {});
  ~TaskService();

  // Connects to the guest. A clone that has gone meanwhile is told in the answers.
  void open();
  void handle(ttrpc::Call call, ttrpc::Answer answer);

  // Tells the guest what its containers share; `done` is called from the loop.
  void set_pod(const guest::v1::Pod& pod, std::function<void(Status)> done);
  // Asks the guest to end. A guest is hostile: whether it does, its connections tell.
  void power_off();

  [[nodiscard]] size_t containers() const { return containers_.size(); }
  [[nodiscard]] size_t unsent_events() const { return events_.unsent(); }

 private:
  using Answer = ttrpc::Answer;
  // What a container has of the host, until the guest has let go of it.
  struct HostFiles {
    std::optional<uint32_t> disk;
    std::vector<std::string> shares;
    std::optional<MountedRoot> root;
  };
  enum class Freeze { kNone, kAsked, kFrozen };
  struct Container {
    std::string id;
    std::string bundle;
    std::string containerd_namespace;
    std::shared_ptr<Process> process;
    std::map<std::string, std::shared_ptr<Process>> execs;
    std::map<std::string, guest::v1::Request> exec_requests;
    HostFiles files;
    std::shared_ptr<GuestSpec> spec;
    Freeze freeze = Freeze::kNone;
  };
  using Method = void (TaskService::*)(const Caller& caller, const std::string& payload, Answer& answer);
  static const std::map<std::string, Method>& methods();

  // Request is parsed; Message is what it is. In task_methods.cc: one function per method.
  void create(const Caller& caller, const std::string& payload, Answer& answer);
  void start(const Caller& caller, const std::string& payload, Answer& answer);
  void remove(const Caller& caller, const std::string& payload, Answer& answer);
  void kill(const Caller& caller, const std::string& payload, Answer& answer);
  void exec(const Caller& caller, const std::string& payload, Answer& answer);
  void wait(const Caller& caller, const std::string& payload, Answer& answer);
  void state(const Caller& caller, const std::string& payload, Answer& answer);
  void pids(const Caller& caller, const std::string& payload, Answer& answer);
  void close_io(const Caller& caller, const std::string& payload, Answer& answer);
  void resize_pty(const Caller& caller, const std::string& payload, Answer& answer);
  void update(const Caller& caller, const std::string& payload, Answer& answer);
  void stats(const Caller& caller, const std::string& payload, Answer& answer);
  void connect(const Caller& caller, const std::string& payload, Answer& answer);
  void shutdown(const Caller& caller, const std::string& payload, Answer& answer);
  void pause(const Caller& caller, const std::string& payload, Answer& answer);
  void resume(const Caller& caller, const std::string& payload, Answer& answer);

  // Of Create, in task_create.cc.
  Result<Container*> admit(const Caller& caller, const containerd::task::v3::CreateTaskRequest& request);
  Status translate(Container& container, const containerd::task::v3::CreateTaskRequest& request);
  Status prepare_disk(Container& container, const containerd::task::v3::CreateTaskRequest& request, Answer& answer);
  void share_instead(const containerd::task::v3::CreateTaskRequest& request, Answer& answer);
  Status prepare_directory(Container& container, const containerd::task::v3::CreateTaskRequest& request,
                           Answer& answer);
  Status prepare_shared(Container& container, const containerd::task::v3::CreateTaskRequest& request,
                        const std::string& path, bool read_only, Answer& answer);
  Result<std::string> share(Container& container, const std::string& host_path, bool read_only);
  void release(HostFiles files);
  Status prepare(Container& container, const containerd::task::v3::CreateTaskRequest& request, Answer& answer);
  Status keep_disk(const std::string& id, const Result<uint32_t>& disk);
  void create_in_guest(const std::string& id, guest::v1::Rootfs rootfs, const std::string& created_event,
                       Answer answer);
  void abandon(const std::string& id);

  Result<Container*> find(const std::string& id);
  // A container's own process for an empty exec id; NOT_FOUND, or what check_operation() says.
  Result<Process*> find(const std::string& id, const std::string& exec_id, Operation operation);
  static Status check_awake(const Container& container);
  void start_exec(Container& container, const std::string& exec_id, Answer answer);
  void start_container(Container& container, Answer answer);
  void remove_exec(Container& container, const std::string& exec_id, const Answer& answer);
  void remove_container(Container& container, Answer answer);
  void finish_removal(const std::string& id, const Answer& answer);
  void freeze(const std::string& id, bool frozen, Answer answer);
  void thaw(const std::string& id);
  void on_exited(const std::string& id, const std::string& exec_id);
  void on_clone_gone(const Error& why);
  void publish(const Container& container, const google::protobuf::MessageLite& event);
  // Lets go of a process in whose callback the caller may be.
  void let_go_of(std::shared_ptr<Process> process);

  EventLoop& loop_;
  const Pod pod_;
  const std::function<void()> tell_clone_gone_;
  GuestControl control_;
  GuestControl slow_control_;  // what crun takes its time for: a kill must not wait behind it
  CloneDisks disks_;
  Shares shares_;
  EventPublisher events_;
  const uint32_t pid_;
  std::map<std::string, Container> containers_;
  std::optional<Error> clone_gone_;
};

}  // namespace granary::shim
