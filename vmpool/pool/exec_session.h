// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "vmpool/pool/guest_connection.h"

namespace granary::guest::v1 {
class Exec;
class Request;
}  // namespace granary::guest::v1

namespace granary::pool {

struct ExecEvent {
  enum class Kind { kStdout, kStderr, kExited };
  Kind kind = Kind::kExited;
  std::string data;         // of kStdout and kStderr
  int32_t exit_status = 0;  // of kExited: exit code, or 128 + n when signal n ended the command
  int32_t signal = 0;       // of kExited: 0 when the command exited by itself
};

// A command in a clone, straight over its per-clone socket (nobody else is involved, so it survives a restart of the
// agent). One thread takes events; others may write at the same time. Not taking events stops the guest's output by
// back-pressure. The command gets SIGHUP when its session is destroyed before it exited.
class ExecSession {
 public:
  // As much input as fits into the socket's buffer whenever poll(2) says that the socket is writable: such a write does not
  // block.
  static constexpr size_t kStdinChunkBytes = 32 * 1024;
  // A deadline that has passed (the clock starts at boot); time_point::min() would overflow in a difference.
  static constexpr SteadyTime kPast{};

  // Errors: ENOENT for a command that is not there (127 of a shell), EACCES for one that cannot be executed (126),
  // kInvalidArgument for a request that the guest refuses or that does not fit a frame of 1 MiB; kGuestUnresponsive,
  // kGuestProtocol, kPeerGone.
  static Result<std::unique_ptr<ExecSession>> start(const std::string& socket_path, const guest::v1::Exec& exec,
                                                    SteadyTime deadline);

  // The next event; nothing at the deadline (a deadline in the past: only what is there already). kExited is the last
  // one. kPeerGone: the clone went before the command exited.
  Result<std::optional<ExecEvent>> next(SteadyTime deadline);
  // For poll(2): POLLIN when next() is worth a call. Call next() until it gives nothing before polling.
  [[nodiscard]] int poll_fd() const { return connection_.poll_fd(); }

  // Writes all of it or fails: kDeadlineExceeded when the command does not read (the session is then of no more use),
  // kPeerGone after the command exited.
  Status write_stdin(std::string_view bytes, SteadyTime deadline);
  Status close_stdin();
  Status resize(uint32_t rows, uint32_t columns);
  Status signal(int32_t number);

  [[nodiscard]] int32_t guest_pid() const { return guest_pid_; }

 private:
  explicit ExecSession(GuestConnection connection) : connection_(std::move(connection)) {}
  Status await_start(SteadyTime deadline);
  Status send(const guest::v1::Request& request, SteadyTime deadline);

  GuestConnection connection_;
  std::mutex write_mutex_;
  int32_t guest_pid_ = 0;
};

}  // namespace granary::pool
