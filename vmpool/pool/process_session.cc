// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/process_session.h"

#include "vmpool/guest/guest.pb.h"

namespace granary::pool {
namespace {

namespace wire = guest::v1;

// Small requests wait this long for a guest that does not read.
constexpr std::chrono::seconds kSmallRequestLimit{10};

}  // namespace

Error to_error(const wire::Failure& failure) {
  const std::string text = failure.message().substr(0, 1024);
  switch (failure.kind()) {
    case wire::Failure::NOT_FOUND:
      return Error::from_errno(ENOENT, text);
    case wire::Failure::NOT_EXECUTABLE:
      return Error::from_errno(EACCES, text);
    case wire::Failure::EXISTS:
      return Error::from_errno(EEXIST, text);
    case wire::Failure::INVALID:
      return {Errc::kInvalidArgument, text};
    case wire::Failure::CONTAINER:
      return {Errc::kContainerFailed, text};
    default:
      return {Errc::kGuestProtocol, "the guest could not do it: " + text};
  }
}

Status ProcessSession::answer(wire::Reply& reply, const char* what, SteadyTime deadline) {
  const Status received = connection_.receive(reply, deadline);
  if (!received && received.error().is(Errc::kDeadlineExceeded)) {
    return Error(Errc::kGuestUnresponsive, std::string("the guest did not ") + what + " in time");
  }
  if (!received) return received;
  if (reply.has_failure()) return to_error(reply.failure());
  return ok();
}

Result<ExecEvent> ProcessSession::to_event(wire::Reply& reply) {
  switch (reply.kind_case()) {
    case wire::Reply::kStdoutData:
      return ExecEvent{.kind = ExecEvent::Kind::kStdout, .data = std::move(*reply.mutable_stdout_data())};
    case wire::Reply::kStderrData:
      return ExecEvent{.kind = ExecEvent::Kind::kStderr, .data = std::move(*reply.mutable_stderr_data())};
    case wire::Reply::kOutOfMemory:
      return ExecEvent{.kind = ExecEvent::Kind::kOutOfMemory, .data = {}};
    case wire::Reply::kExited:
      return ExecEvent{.data = {}, .exit_status = reply.exited().status(), .signal = reply.exited().signal()};
    default:
      return Error(Errc::kGuestProtocol, "unexpected message while a process runs");
  }
}

Result<std::optional<ExecEvent>> ProcessSession::next(SteadyTime deadline) {
  if (!kept_.empty()) {
    std::optional<ExecEvent> event(std::move(kept_.front()));
    kept_.pop_front();
    return event;
  }
  wire::Reply reply;
  const Status received = connection_.receive(reply, deadline);
  if (!received && received.error().is(Errc::kDeadlineExceeded)) return std::optional<ExecEvent>();
  if (!received) return received.error();
  return std::optional(GRANARY_TRY(to_event(reply)));
}

Status ProcessSession::write_stdin(std::string_view bytes, SteadyTime deadline) {
  while (!bytes.empty()) {
    const std::string_view chunk = bytes.substr(0, guest::kDataChunkBytes);
    wire::Request request;
    request.set_stdin_data(chunk.data(), chunk.size());
    GRANARY_TRY(send(request, deadline));
    bytes.remove_prefix(chunk.size());
  }
  return ok();
}

Status ProcessSession::close_stdin() {
  wire::Request request;
  request.set_close_stdin(true);
  return send(request, SteadyClock::now() + kSmallRequestLimit);
}

Status ProcessSession::resize(uint32_t rows, uint32_t columns) {
  wire::Request request;
  request.mutable_window_size()->set_rows(rows);
  request.mutable_window_size()->set_columns(columns);
  return send(request, SteadyClock::now() + kSmallRequestLimit);
}

Status ProcessSession::signal(int32_t number) {
  wire::Request request;
  request.set_signal(number);
  return send(request, SteadyClock::now() + kSmallRequestLimit);
}

Status ProcessSession::send(const wire::Request& request, SteadyTime deadline) {
  const std::lock_guard lock(write_mutex_);
  return connection_.send(request, deadline);
}

}  // namespace granary::pool
