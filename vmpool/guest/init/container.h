// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmpool/guest/init/container_paths.h"
#include "vmpool/guest/init/crun.h"
#include "vmpool/guest/init/errand.h"
#include "vmpool/guest/init/watch.h"

namespace granary::guest {

using Answer = std::function<void(const v1::Reply&)>;  // called once, now or later

// One container, from the request for it until nothing of it is left. Its steps (mounting, crun, cleaning up) run
// beside the event loop, one at a time. Its streams belong to the conversation that created it.
class Container {
 public:
  // The conversation that created it. Called from the loop.
  struct Listener {
    std::function<void(pid_t, Streams)> created;
    std::function<void(const v1::Reply&)> failed;  // instead of `created`, and the last call
    std::function<void()> out_of_memory;           // at most once, before `ended`
    std::function<void(Reaper::Ending)> ended;     // the last call
  };
  struct Surroundings {
    EventLoop& loop;
    Reaper& reaper;
    const ContainerPaths& paths;
    // Nothing is left of it; it may be destroyed once that call has returned to the loop.
    std::function<void(Container&)> gone;
  };

  // Checks the request and begins. kInvalidArgument.
  static Result<std::unique_ptr<Container>> create(Surroundings around, v1::ContainerCreate request);

  ~Container();
  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;

  void listen(Listener listener) { listener_ = std::move(listener); }
  // Its conversation is gone: it is killed, or, if it is only being made, removed.
  void abandon();

  void start(Answer answer);
  v1::Reply kill(int signal, bool all);
  void remove(bool force, Answer answer);

  [[nodiscard]] const std::string& id() const { return request_.container_id(); }
  [[nodiscard]] std::string cgroup() const { return around_.paths.pod_cgroup() + "/" + id(); }
  [[nodiscard]] bool running() const { return state_ == State::kRunning; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] bool on_terminal() const { return on_terminal_; }
  [[nodiscard]] const v1::WindowSize& window_size() const { return request_.window_size(); }

 private:
  enum class State { kCreating, kCreated, kRunning, kEnded };

  Container(Surroundings around, v1::ContainerCreate request);
  Status prepare(const std::string& json);
  void create_with_crun();
  Status take_process(Streams& streams);
  void on_created(const Status& status);
  void fail_creation(const Error& error);
  void on_ending(Reaper::Ending ending);
  void limit_start();
  void tell_ending();
  void kill_all();
  void give_up_creation();
  void watch_memory();
  void look_at_memory();
  void clean_up_if_idle();
  void clean_up();
  void sweep();
  void on_swept(const Status& status);
  [[nodiscard]] v1::Reply named(v1::Failure::Kind kind, const std::string& what) const;

  Surroundings around_;
  v1::ContainerCreate request_;
  bool on_terminal_ = false;
  State state_ = State::kCreating;
  Listener listener_;
  std::unique_ptr<Errand> errand_;
  std::unique_ptr<CrunCall> call_;
  pid_t pid_ = 0;  // while the process exists
  std::optional<Reaper::Ending> ending_;
  bool starting_ = false;  // call_ starts it
  EventLoop::Token start_limit_ = 0;
  bool crun_knows_it_ = false;
  bool unwanted_ = false;  // to be removed as soon as it has ended and no step runs
  v1::Reply creation_failure_;
  std::vector<Answer> removal_answers_;
  Fd memory_events_;
  Watch memory_watch_;
  bool out_of_memory_told_ = false;
};

}  // namespace granary::guest
