// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "vmpool/guest/guest.pb.h"
#include "vmpool/guest/init/spawn.h"
#include "vmpool/guest/init/watch.h"

namespace granary::guest {

// This end of a process's standard streams on the event loop. Never holds more than one message of input, nor reads
// output that its owner cannot pass on.
class ProcessStreams {
 public:
  // Called from the event loop, or from inside process_ended(); never after the ProcessStreams are gone.
  struct Owner {
    std::function<void(const v1::Reply&)> output;  // stdout_data or stderr_data
    std::function<void()> wants_input;             // input_taken() has become true
    std::function<void()> drained;                 // drained() may have become true
  };

  ProcessStreams(EventLoop& loop, Owner owner);
  ~ProcessStreams();

  void take(Streams streams);
  // Output is read from now on, while it is allowed.
  void start();
  void allow_output(bool allowed);

  [[nodiscard]] bool input_taken() const { return input_.empty(); }
  // Only while input_taken(). Input that the process does not want any more is dropped.
  void write_input(std::string data);
  // A pipe is closed; on a terminal the end-of-file character is typed.
  void close_input();
  void resize(const v1::WindowSize& size);

  // What is in the streams now is all that will be passed on: descendants may hold them for ever.
  void process_ended();
  // Closes all of them, whatever is in them.
  void drop();
  // All output was passed on.
  [[nodiscard]] bool drained() const { return !stdout_.fd.valid() && !stderr_.fd.valid(); }

 private:
  struct Output {
    Output(EventLoop& loop, bool is_stderr) : watch(loop), to_stderr(is_stderr) {}
    Fd fd;
    Watch watch;
    bool to_stderr;
    std::optional<size_t> left;  // bytes still to pass on; set when the process has ended
  };

  void stop_at_what_is_there(Output& output);
  void pump(Output& output);
  void close_output(Output& output);
  void watch_outputs();
  void flush_input();
  void drop_input();

  EventLoop& loop_;
  Owner owner_;
  Fd stdin_;
  Watch stdin_watch_;
  std::string input_;  // accepted, not yet taken by the process
  char last_input_ = '\n';
  bool close_after_input_ = false;
  Output stdout_;
  Output stderr_;
  bool on_terminal_ = false;
  bool started_ = false;
  bool output_allowed_ = true;
  EventLoop::Token terminal_timer_ = 0;
};

}  // namespace granary::guest
