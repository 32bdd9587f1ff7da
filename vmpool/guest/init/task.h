// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "vmpool/guest/init/carried.h"
#include "vmpool/guest/init/process_streams.h"
#include "vmpool/guest/init/reaper.h"

namespace granary::guest {

// A process, to Exited as its last message. If the conversation drops it before the process ended, that is killed.
class Task : public Carried {
 public:
  [[nodiscard]] bool accepts_input() const override { return ended_ || ending_ || (open_ && streams_.input_taken()); }
  void write_input(std::string data) override { streams_.write_input(std::move(data)); }
  void close_input() override { streams_.close_input(); }
  // Only while accepts_input().
  void resize(const v1::WindowSize& size) { streams_.resize(size); }
  // False if there is no such signal.
  bool signal(int number);
  void allow_output(bool allowed) override { streams_.allow_output(allowed); }
  // Exited, or a Failure that ends it, was given to the owner.
  [[nodiscard]] bool ended() const override { return ended_; }

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
