// SPDX-License-Identifier: Apache-2.0
#include "agent/exec_call.h"

#include <poll.h>

#include <thread>

#include "agent/exec_request.h"
#include "grpc-api/status.h"
#include "vmpool/base/event_loop.h"
#include "vmpool/base/fault.h"
#include "vmpool/pool/exec_session.h"

namespace granary::agent {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kStartLimit{30};
constexpr std::chrono::seconds kChunkLimit{30};

Result<guest::v1::Exec> to_guest(const v1::ExecStart& start) {
  guest::v1::Exec exec = GRANARY_TRY(to_exec({.argv = {start.argv().begin(), start.argv().end()},
                                              .env = {start.env().begin(), start.env().end()},
                                              .cwd = start.cwd()}));
  exec.set_uid(start.uid());
  exec.set_gid(start.gid());
  exec.set_tty(start.tty());
  exec.set_has_stdin(start.has_stdin());
  if (start.has_window_size()) {
    exec.mutable_window_size()->set_rows(start.window_size().rows());
    exec.mutable_window_size()->set_columns(start.window_size().columns());
  }
  return exec;
}

v1::ExecResponse to_response(pool::ExecEvent event) {
  v1::ExecResponse response;
  switch (event.kind) {
    case pool::ExecEvent::Kind::kStdout:
      response.set_stdout_data(std::move(event.data));
      break;
    case pool::ExecEvent::Kind::kStderr:
      response.set_stderr_data(std::move(event.data));
      break;
    case pool::ExecEvent::Kind::kExited:
      response.mutable_exit()->set_status(event.exit_status);
      response.mutable_exit()->set_signal(event.signal);
      break;
    case pool::ExecEvent::Kind::kOutOfMemory:  // of containers only
      break;
  }
  return response;
}

// gRPC's reactions only note what happened and wake the thread; everything else happens there.
class ExecCall final : public ExecReactor {
 public:
  ExecCall(const PoolSet& pools, EventFd wake) : pools_(pools), wake_(std::move(wake)) { StartRead(&request_); }

  void run() {
    const Status result = serve();
    // Last: once finished, the call is deleted.
    if (cancelled()) return Finish(grpc::Status::CANCELLED);
    Finish(result ? grpc::Status::OK : api::to_grpc(result.error()));
  }

  void OnReadDone(bool ok) override { note(ok ? &Seen::request : &Seen::input_ended); }
  void OnWriteDone(bool ok) override { note(ok ? &Seen::written : &Seen::cancelled); }
  void OnCancel() override { note(&Seen::cancelled); }
  void OnDone() override { delete this; }

 private:
  struct Seen {
    bool request = false;      // request_ holds a message
    bool written = false;      // response_ is free again
    bool input_ended = false;  // the caller closed its side
    bool cancelled = false;    // the caller has vanished
  };

  void note(bool Seen::*what) {
    {
      const std::lock_guard lock(mutex_);
      seen_.*what = true;
    }
    wake_.signal();
  }
  Seen seen() {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  bool take(bool Seen::*what) {
    const std::lock_guard lock(mutex_);
    return std::exchange(seen_.*what, false);
  }
  bool cancelled() { return seen().cancelled; }

  Status serve() {
    GRANARY_TRY(await_request());
    if (!request_.has_start()) return Error(Errc::kInvalidArgument, "exec: the first message must be start");
    const Lease lease = GRANARY_TRY(pools_.running(request_.start().clone_id()));
    const guest::v1::Exec exec = GRANARY_TRY(to_guest(request_.start()));
    auto session = pool::ExecSession::start(lease.clone.socket_path, exec, steady_clock::now() + kStartLimit);
    if (!session) return answer_start_failure(std::move(session).error());
    session_ = *std::move(session);
    fault_point("exec.started");
    StartRead(&request_);
    v1::ExecResponse started;
    started.set_started_pid(session_->guest_pid());
    write(std::move(started));
    return explain(carry(), lease.clone.id);
  }

  // A session that broke because its clone went gets the clone's reason.
  Status explain(Status result, const std::string& clone_id) {
    if (!result && result.error().is(Errc::kPeerGone)) GRANARY_TRY(pools_.running(clone_id));
    return result;
  }

  Status await_request() {
    while (!take(&Seen::request)) {
      const Seen now = seen();
      if (now.cancelled || now.input_ended) return Error(Errc::kInvalidArgument, "exec: ended before start");
      wait({});
    }
    return ok();
  }

  // 127 or 126 as an answer; every other error is the call's.
  Status answer_start_failure(Error error) {
    const bool missing = error.is_errno(ENOENT);
    if (!missing && !error.is_errno(EACCES)) return error;
    v1::ExecResponse response;
    response.mutable_exit()->set_status(missing ? 127 : 126);
    response.mutable_exit()->set_message(error.message());
    write(std::move(response));
    await_written();
    return ok();
  }

  // Until the command's exit has been written, or the caller has vanished.
  Status carry() {
    while (!cancelled()) {
      if (take(&Seen::written)) writing_ = false;
      if (take(&Seen::request)) stdin_offset_ = 0, pending_ = true;
      const bool blocked = pending_ && !GRANARY_TRY(move_input());
      if (!writing_) {
        auto event = GRANARY_TRY(session_->next(pool::ExecSession::kPast));
        if (event) {
          const bool last = event->kind == pool::ExecEvent::Kind::kExited;
          if (last) fault_point("exec.exited");
          write(to_response(*std::move(event)));
          if (last) break;
          continue;
        }
      }
      wait({.output = !writing_, .input = blocked});
    }
    await_written();
    return ok();
  }

  // Moves what the caller sent on to the command. True: done with it, the next one is asked for. False: the command
  // does not read.
  Result<bool> move_input() {
    if (request_.kind_case() == v1::ExecRequest::kStdinData && stdin_offset_ < request_.stdin_data().size()) {
      pollfd fd{.fd = session_->poll_fd(), .events = POLLOUT, .revents = 0};
      if (::poll(&fd, 1, 0) <= 0) return false;
      const std::string_view rest =
          std::string_view(request_.stdin_data()).substr(stdin_offset_, pool::ExecSession::kStdinChunkBytes);
      GRANARY_TRY(unless_exited(session_->write_stdin(rest, steady_clock::now() + kChunkLimit)));
      stdin_offset_ += rest.size();
      if (stdin_offset_ < request_.stdin_data().size()) return false;
    } else {
      GRANARY_TRY(unless_exited(apply_small()));
    }
    pending_ = false;
    StartRead(&request_);
    return true;
  }

  Status apply_small() {
    switch (request_.kind_case()) {
      case v1::ExecRequest::kCloseStdin:
        return session_->close_stdin();
      case v1::ExecRequest::kWindowSize:
        return session_->resize(request_.window_size().rows(), request_.window_size().columns());
      case v1::ExecRequest::kSignal:
        return session_->signal(request_.signal());
      case v1::ExecRequest::kStdinData:
        return ok();
      default:
        return Error(Errc::kInvalidArgument, "exec: a second start, or a message of unknown kind");
    }
  }

  // A command that exits while its input is on the way is no failure: its exit is read next.
  static Status unless_exited(Status result) {
    if (!result && result.error().is(Errc::kPeerGone)) return ok();
    return result;
  }

  void write(v1::ExecResponse response) {
    await_written();
    response_ = std::move(response);
    writing_ = true;
    StartWrite(&response_);
  }
  void await_written() {
    while (writing_ && !cancelled()) {
      if (take(&Seen::written)) writing_ = false;
      if (writing_) wait({});
    }
  }

  struct Want {
    bool output = false;  // of the command
    bool input = false;   // room for it
  };
  void wait(Want want) {
    const short events = static_cast<short>((want.output ? POLLIN : 0) | (want.input ? POLLOUT : 0));
    pollfd fds[2] = {{.fd = wake_.get(), .events = POLLIN, .revents = 0},
                     {.fd = events != 0 ? session_->poll_fd() : -1, .events = events, .revents = 0}};
    ::poll(fds, 2, -1);
    [[maybe_unused]] const uint64_t count = wake_.drain();
  }

  const PoolSet& pools_;
  EventFd wake_;
  std::mutex mutex_;
  Seen seen_;

  // The rest belongs to the call's thread; request_ and response_ to gRPC while a read or write is under way.
  std::unique_ptr<pool::ExecSession> session_;
  v1::ExecRequest request_;
  v1::ExecResponse response_;
  bool writing_ = false;
  bool pending_ = false;
  size_t stdin_offset_ = 0;
};

// For a call that cannot even begin.
class FailedCall final : public ExecReactor {
 public:
  explicit FailedCall(const Error& error) { Finish(api::to_grpc(error)); }
  void OnDone() override { delete this; }
};

}  // namespace

ExecReactor* start_exec_call(const PoolSet& pools) {
  auto wake = EventFd::create();
  if (!wake) return new FailedCall(wake.error());
  auto* const call = new ExecCall(pools, *std::move(wake));
  // Detached: it finishes the call as its last act, and a server that shuts down waits for its calls.
  std::thread([call] { call->run(); }).detach();
  return call;
}

}  // namespace granary::agent
