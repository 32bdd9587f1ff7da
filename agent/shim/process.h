// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/shim/guest_conversation.h"
#include "agent/shim/stdio.h"
#include "agent/shim/task_state.h"

namespace granary::shim {

struct Streams {
  std::string in;
  std::string out;
  std::string err;  // not looked at with a terminal
  bool terminal = false;
};

struct Exit {
  uint32_t status = 0;  // exit code, 128 + n when signal n ended it, 137 when its clone has gone
  std::chrono::system_clock::time_point at;
};

// A process in the guest that containerd knows: a container's own, or one that was executed in it. Keeps its phase, its
// conversation with the guest, and its streams. Belongs to the event loop's thread. Its callbacks are called from the
// loop, and must not destroy it: release it with EventLoop::post().
class Process {
 public:
  using Done = std::function<void(Status)>;
  struct Events {
    std::function<void()> exited = [] {};  // once, if it ever ran; phase() and exit() say how
    std::function<void()> out_of_memory = [] {};
  };
  // For the guest to answer to a creation or a start.
  static constexpr std::chrono::seconds kAnswerLimit{60};

  // `name`: for people.
  Process(EventLoop& loop, std::string guest_socket, std::string name, Streams streams, Events events)
      : loop_(loop),
        guest_socket_(std::move(guest_socket)),
        name_(std::move(name)),
        streams_(std::move(streams)),
        events_(std::move(events)) {}
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Opens the FIFOs. stdio.h says what can be wrong with them.
  Status open_streams();
  // A container's process: kCreating until `done`, then kCreated; after an error it is kStopped.
  void create(const guest::v1::Request& container_create, Done done);
  // An exec's: it is known, the guest hears of it with start().
  void note_created() { phase_ = Phase::kCreated; }
  // From kCreated to kRunning. A container's is started on its conversation, an exec's (`exec` has one) on a new one.
  void start(const guest::v1::Request& exec_or_start, Done done);

  // NOT_FOUND once it has ended, FAILED_PRECONDITION before it was started.
  Status signal(uint32_t number);
  Status resize(uint32_t rows, uint32_t columns);
  // The guest gets what is in the FIFO, then the end of its input.
  void close_input();
  // Called once it has ended; at once if it has.
  void when_ended(std::function<void(const Exit&)> callback);
  // Nothing more comes from it: its clone has gone, or its container is deleted.
  void end(const Error& why);
  // It was killed: output beyond what is kept for a reader that stands still is dropped, or its end would never be heard.
  void note_killed();
  [[nodiscard]] bool has_unwritten_output() const;
  void note_deleting() { phase_ = Phase::kDeleting; }
  // The guest would not: it can be tried again.
  void note_not_deleted() { phase_ = exit_ ? Phase::kStopped : Phase::kCreated; }

  [[nodiscard]] Phase phase() const { return phase_; }
  [[nodiscard]] const std::optional<Exit>& exit() const { return exit_; }
  [[nodiscard]] const Streams& streams() const { return streams_; }
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  Status converse(const guest::v1::Request& first);
  void await(Done done);
  void settle(const Status& result);
  void on_reply(guest::v1::Reply& reply);
  void on_failure(const Error& why);
  void on_closed(const Error& why);
  void on_started();
  void write_output(OutputFifo* to, const std::string& bytes);
  void let_through();
  void send_input(std::string_view bytes);
  void stop(uint32_t status, const Error& why_not_started);
  Status send_small(const guest::v1::Request& request);

  EventLoop& loop_;
  const std::string guest_socket_;
  const std::string name_;
  const Streams streams_;
  Events events_;
  Phase phase_ = Phase::kCreating;
  bool in_guest_ = false;  // the guest has made it
  bool killed_ = false;
  std::unique_ptr<GuestConversation> conversation_;
  std::unique_ptr<OutputFifo> out_;
  std::unique_ptr<OutputFifo> err_;
  std::unique_ptr<InputFifo> in_;
  Done awaiting_;
  EventLoop::Token timer_ = 0;
  std::optional<Exit> exit_;
  std::vector<std::function<void(const Exit&)>> waiting_;
};

}  // namespace granary::shim
