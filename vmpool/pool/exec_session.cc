// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/exec_session.h"

#include <algorithm>

#include "vmpool/base/machine_layout.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::pool {
namespace {

namespace wire = guest::v1;

// Small requests wait this long for a guest that does not read.
constexpr std::chrono::seconds kSmallRequestLimit{10};

Error to_error(const wire::Failure& failure) {
  const std::string text = failure.message().substr(0, 256);
  switch (failure.kind()) {
    case wire::Failure::NOT_FOUND:
      return Error::from_errno(ENOENT, text);
    case wire::Failure::NOT_EXECUTABLE:
      return Error::from_errno(EACCES, text);
    case wire::Failure::INVALID:
      return {Errc::kInvalidArgument, text};
    default:
      return {Errc::kGuestProtocol, "the guest could not start the command: " + text};
  }
}

Error unexpected(const char* when) { return {Errc::kGuestProtocol, std::string("exec: unexpected message ") + when}; }

}  // namespace

Result<std::unique_ptr<ExecSession>> ExecSession::start(const std::string& socket_path, const wire::Exec& exec,
                                                        SteadyTime deadline) {
  wire::Request request;
  *request.mutable_exec() = exec;
  if (request.ByteSizeLong() > guest::kMaxFrameBytes) {
    return Error(Errc::kInvalidArgument, "command line and environment of " + std::to_string(request.ByteSizeLong()) +
                                             " bytes; allowed: " + std::to_string(guest::kMaxFrameBytes));
  }
  GuestConnection connection = GRANARY_TRY(GuestConnection::connect(socket_path, machine::kInitVsockPort, deadline));
  std::unique_ptr<ExecSession> session(new ExecSession(std::move(connection)));
  GRANARY_TRY(session->send(request, deadline));
  GRANARY_TRY(session->await_start(deadline));
  return session;
}

Status ExecSession::await_start(SteadyTime deadline) {
  wire::Reply reply;
  const Status received = connection_.receive(reply, deadline);
  if (!received && received.error().is(Errc::kDeadlineExceeded)) {
    return Error(Errc::kGuestUnresponsive, "the guest did not start the command in time");
  }
  if (!received) return received;
  if (reply.has_failure()) return to_error(reply.failure());
  if (!reply.has_started()) return unexpected("instead of Started");
  guest_pid_ = reply.started().pid();
  return ok();
}

Result<std::optional<ExecEvent>> ExecSession::next(SteadyTime deadline) {
  wire::Reply reply;
  const Status received = connection_.receive(reply, deadline);
  if (!received && received.error().is(Errc::kDeadlineExceeded)) return std::optional<ExecEvent>();
  if (!received) return received.error();
  std::optional<ExecEvent> event(std::in_place);
  switch (reply.kind_case()) {
    case wire::Reply::kStdoutData:
      event->kind = ExecEvent::Kind::kStdout;
      event->data = std::move(*reply.mutable_stdout_data());
      return event;
    case wire::Reply::kStderrData:
      event->kind = ExecEvent::Kind::kStderr;
      event->data = std::move(*reply.mutable_stderr_data());
      return event;
    case wire::Reply::kExited:
      event->exit_status = reply.exited().status();
      event->signal = reply.exited().signal();
      return event;
    default:
      return unexpected("while the command runs");
  }
}

Status ExecSession::write_stdin(std::string_view bytes, SteadyTime deadline) {
  while (!bytes.empty()) {
    const std::string_view chunk = bytes.substr(0, guest::kDataChunkBytes);
    wire::Request request;
    request.set_stdin_data(chunk.data(), chunk.size());
    GRANARY_TRY(send(request, deadline));
    bytes.remove_prefix(chunk.size());
  }
  return ok();
}

Status ExecSession::close_stdin() {
  wire::Request request;
  request.set_close_stdin(true);
  return send(request, SteadyClock::now() + kSmallRequestLimit);
}

Status ExecSession::resize(uint32_t rows, uint32_t columns) {
  wire::Request request;
  request.mutable_window_size()->set_rows(rows);
  request.mutable_window_size()->set_columns(columns);
  return send(request, SteadyClock::now() + kSmallRequestLimit);
}

Status ExecSession::signal(int32_t number) {
  wire::Request request;
  request.set_signal(number);
  return send(request, SteadyClock::now() + kSmallRequestLimit);
}

Status ExecSession::send(const wire::Request& request, SteadyTime deadline) {
  const std::lock_guard lock(write_mutex_);
  return connection_.send(request, deadline);
}

}  // namespace granary::pool
