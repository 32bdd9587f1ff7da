// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/shim/event_publisher.h"
#include "agent/shim/pod_clone.h"
#include "agent/shim/port_forward.h"
#include "agent/shim/process.h"
#include "agent/shim/sandbox_spec.h"
#include "agent/shim/task_service.h"

namespace granary::shim {

// The Task service of a shim that containerd 1.6, 1.7 or CRI-O started: it takes its pod itself. The sandbox ("pause")
// task is answered here: its Create takes a clone from the pool, its Kill gives the clone back, and no process runs for
// it. Everything about other tasks is the TaskService's, which is there from then on. A clone that ends by itself makes
// the sandbox task exit with 137, after its containers.
class OwnPod {
 public:
  // Of a pod whose runtime set no shorter deadline: how long it waits for an empty pool.
  static constexpr std::chrono::seconds kDefaultWait{30};
  // containerd creates the sandbox right after `start`; one whose `start` it gave up is never heard of again.
  static constexpr std::chrono::minutes kUnusedLimit{5};

  // `pod` without clone and guest. `ended`: once, after the last task was deleted and Shutdown asked, or when no
  // sandbox was created for kUnusedLimit.
  OwnPod(EventLoop& loop, Pod pod, std::function<void()> ended);
  ~OwnPod();
  OwnPod(const OwnPod&) = delete;
  OwnPod& operator=(const OwnPod&) = delete;
  void handle(ttrpc::Call call, ttrpc::Answer answer);

 private:
  using Answer = ttrpc::Answer;
  // Of the sandbox task.
  enum class Phase { kNone, kTaking, kCreated, kRunning, kEnding, kStopped, kDeleted };
  using Method = void (OwnPod::*)(const std::string& payload, Answer& answer);
  static const std::map<std::string, Method>& methods();

  void create(const ttrpc::Call& call, const Caller& caller, Answer answer);
  void start(const std::string& payload, Answer& answer);
  void kill(const std::string& payload, Answer& answer);
  void remove(const std::string& payload, Answer& answer);
  void wait(const std::string& payload, Answer& answer);
  void state(const std::string& payload, Answer& answer);
  void pids(const std::string& payload, Answer& answer);
  void close_io(const std::string& payload, Answer& answer);
  void refuse(const std::string& payload, Answer& answer);
  void connect(const Caller& caller, const Answer& answer) const;
  void shutdown(const Answer& answer);

  void on_taken(const Result<v1::AcquireResponse>& taken, const Answer& answer);
  void equip(const v1::Clone& clone, const Answer& answer);
  void created(const Answer& answer);
  // Gives the clone back and answers why there is no pod.
  void undo(const Error& why, const Answer& answer);
  void give_back(std::function<void()> done);
  void on_clone_gone();
  void exited(uint32_t status);
  void removed(const Answer& answer);
  void end_if_unused();
  void watch_unused();
  void end_when_told(EventLoop::Clock::time_point limit);
  // NOT_FOUND unless it is created and not yet deleted.
  Status check_there() const;

  EventLoop& loop_;
  Pod pod_;
  std::function<void()> ended_;
  PodClone clone_;
  EventPublisher events_;
  const uint32_t pid_;
  std::unique_ptr<TaskService> service_;
  std::unique_ptr<PortForward> forward_;
  EventLoop::Token unused_timer_ = 0;
  Phase phase_ = Phase::kNone;
  bool clone_gone_ = false;
  bool unwanted_ = false;  // deleted while it was created
  bool shutdown_asked_ = false;
  std::string namespace_;
  SandboxSpec spec_;
  containerd::task::v3::CreateTaskRequest request_;
  std::optional<Exit> exit_;
  std::vector<std::function<void()>> waiting_;  // for the exit
};

}  // namespace granary::shim
