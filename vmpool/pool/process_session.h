// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <mutex>
#include <optional>
#include <string>

#include "vmpool/pool/guest_connection.h"

namespace granary::guest::v1 {
class Failure;
class Reply;
class Request;
}  // namespace granary::guest::v1

namespace granary::pool {

struct ExecEvent {
  enum class Kind { kStdout, kStderr, kOutOfMemory, kExited };
  Kind kind = Kind::kExited;
  std::string data;         // of kStdout and kStderr
  int32_t exit_status = 0;  // of kExited: exit code, or 128 + n when signal n ended the process
  int32_t signal = 0;       // of kExited: 0 when the process exited by itself
};

// What a guest's Failure means here: ENOENT, EACCES (there, but cannot be executed), EEXIST, kInvalidArgument,
// kContainerFailed (the words are the guest's container runtime's), else kGuestProtocol. Of hostile words only the
// beginning.
Error to_error(const guest::v1::Failure& failure);

// A process in a clone and its streams, straight over the clone's socket: nobody else is involved, so it survives a
// restart of the agent. One thread takes events; others may write at the same time. Not taking events stops the guest's
// output by back-pressure. The process is ended when its session is destroyed before it exited.
class ProcessSession {
 public:
  // As much input as fits into the socket's buffer whenever poll(2) says that the socket is writable: such a write does
  // not block.
  static constexpr size_t kStdinChunkBytes = 32 * 1024;
  // A deadline that has passed (the clock starts at boot); time_point::min() would overflow in a difference.
  static constexpr SteadyTime kPast{};

  // The next event; nothing at the deadline (a deadline in the past: only what is there already). kExited is the last
  // one. kPeerGone: the clone went before the process exited.
  Result<std::optional<ExecEvent>> next(SteadyTime deadline);
  // For poll(2): POLLIN when next() is worth a call. Call next() until it gives nothing before polling.
  [[nodiscard]] int poll_fd() const { return connection_.poll_fd(); }

  // Writes all of it or fails: kDeadlineExceeded when the process does not read (the session is then of no more use),
  // kPeerGone after the process exited.
  Status write_stdin(std::string_view bytes, SteadyTime deadline);
  Status close_stdin();
  Status resize(uint32_t rows, uint32_t columns);
  Status signal(int32_t number);

  [[nodiscard]] int32_t guest_pid() const { return guest_pid_; }

 protected:
  explicit ProcessSession(GuestConnection connection) : connection_(std::move(connection)) {}
  ~ProcessSession() = default;
  Status send(const guest::v1::Request& request, SteadyTime deadline);
  // The guest's next word, for which `what` waits; the guest's Failure as an error. kGuestUnresponsive at the deadline.
  Status answer(guest::v1::Reply& reply, const char* what, SteadyTime deadline);
  void set_guest_pid(int32_t pid) { guest_pid_ = pid; }
  // For next(), before all that comes later.
  void keep(ExecEvent event) { kept_.push_back(std::move(event)); }
  static Result<ExecEvent> to_event(guest::v1::Reply& reply);

 private:
  GuestConnection connection_;
  std::mutex write_mutex_;
  int32_t guest_pid_ = 0;
  std::deque<ExecEvent> kept_;
};

}  // namespace granary::pool
