// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "vmpool/guest/guest.pb.h"
#include "vmpool/guest/init/reaper.h"
#include "vmpool/guest/init/spawn.h"
#include "vmpool/guest/init/watch.h"

namespace granary::guest {

// One exec'ed process and its streams. Owned by its conversation; if that drops it before the process ended, the
// process is hung up on and killed. Never holds more than one message of input, nor reads output that its owner cannot
// pass on.
class Command {
 public:
  // Called from the event loop, never from inside start(), and never after the Command is gone.
  struct Owner {
    // Started or Failure; then output; at last Exited.
    std::function<void(const v1::Reply&)> reply;
    // accepts_input() has become true.
    std::function<void()> wants_input;
  };

  // Errors as spawn() has them.
  static Result<std::unique_ptr<Command>> start(EventLoop& loop, Reaper& reaper, v1::Exec request, Owner owner);
  ~Command();

  // False from the fork until the process has become the command, and while it leaves input unread.
  [[nodiscard]] bool accepts_input() const { return ended_ || ending_ || (started_ && input_.empty()); }
  // Only while accepts_input(). Input that the process does not want any more is dropped.
  void write_input(std::string data);
  // A pipe is closed; on a terminal the end-of-file character is typed.
  void close_input();
  void resize(const v1::WindowSize& size);
  // To the process group. False if there is no such signal.
  bool signal(int number);
  // Output is read only while allowed; at first it is.
  void allow_output(bool allowed);
  // Exited or Failure was given to the owner.
  [[nodiscard]] bool ended() const { return ended_; }

 private:
  struct Output {
    Output(EventLoop& loop, bool is_stderr) : watch(loop), to_stderr(is_stderr) {}
    Fd fd;
    Watch watch;
    bool to_stderr;
    std::optional<size_t> left;  // bytes still to pass on; set when the process has ended
  };

  Command(EventLoop& loop, Reaper& reaper, v1::Exec request, Owner owner);
  Status adopt(Spawned spawned);
  void on_outcome();
  void on_ending(Reaper::Ending ending);
  void stop_at_what_is_there(Output& output);
  void pump(Output& output);
  void close_output(Output& output);
  void watch_outputs();
  void flush_input();
  void drop_input();
  void finish_if_drained();
  [[nodiscard]] bool on_terminal() const { return request_.tty(); }

  EventLoop& loop_;
  Reaper& reaper_;
  const v1::Exec request_;
  Owner owner_;
  pid_t pid_ = 0;
  Fd outcome_;
  Watch outcome_watch_;
  Fd stdin_;
  Watch stdin_watch_;
  std::string input_;  // accepted, not yet taken by the process
  char last_input_ = '\n';
  bool close_after_input_ = false;
  Output stdout_;
  Output stderr_;
  bool output_allowed_ = true;
  bool started_ = false;
  bool ended_ = false;
  std::optional<Reaper::Ending> ending_;
  EventLoop::Token terminal_timer_ = 0;
};

}  // namespace granary::guest
