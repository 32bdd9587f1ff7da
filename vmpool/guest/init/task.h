// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "vmpool/guest/guest.pb.h"
#include "vmpool/guest/init/process_streams.h"
#include "vmpool/guest/init/reaper.h"

namespace granary::guest {

// A process whose streams a conversation carries, to Exited as its last message. Owned by its conversation; if that
// drops it before the process ended, the process is killed.
class Task {
 public:
  // Called from the event loop, never from inside the call that made the Task, and never after it is gone.
  struct Owner {
    // What answers the request; then output; at last Exited. Or a Failure and nothing after it.
    std::function<void(const v1::Reply&)> reply;
    // accepts_input() has become true.
    std::function<void()> wants_input;
  };

  virtual ~Task() = default;
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  // False until the process is there, and while it leaves input unread.
  [[nodiscard]] bool accepts_input() const { return ended_ || ending_ || (open_ && streams_.input_taken()); }
  // These only while accepts_input(). Input that the process does not want any more is dropped.
  void write_input(std::string data) { streams_.write_input(std::move(data)); }
  void close_input() { streams_.close_input(); }
  void resize(const v1::WindowSize& size) { streams_.resize(size); }
  // False if there is no such signal.
  bool signal(int number);
  // Output is read only while allowed; at first it is.
  void allow_output(bool allowed) { streams_.allow_output(allowed); }
  // Exited, or a Failure that ends it, was given to the owner.
  [[nodiscard]] bool ended() const { return ended_; }

 protected:
  Task(EventLoop& loop, Owner owner);

  void take_streams(Streams streams) { streams_.take(std::move(streams)); }
  // Input is accepted from now on.
  void open() { open_ = true; }
  // As open(), and output is passed on from now on.
  void run();
  void say(const v1::Reply& reply) { owner_.reply(reply); }
  void ask_for_input() { owner_.wants_input(); }
  // The last word.
  void fail(const v1::Reply& failure);
  void process_ended(Reaper::Ending ending);
  [[nodiscard]] bool process_has_ended() const { return ending_.has_value(); }

 private:
  virtual void send_signal(int number) = 0;
  void finish_if_drained();

  Owner owner_;
  ProcessStreams streams_;
  bool open_ = false;
  bool ended_ = false;
  std::optional<Reaper::Ending> ending_;
};

}  // namespace granary::guest
