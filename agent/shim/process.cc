// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/process.h"

#include <csignal>
#include <utility>

#include "agent/shim/guest_control.h"
#include "agent/shim/rpc_status.h"
#include "vmpool/base/log.h"

namespace granary::shim {
namespace {

constexpr uint32_t kKilledStatus = 128 + SIGKILL;
constexpr uint32_t kNotStartedStatus = 255;
// Small requests of a caller that never ends asking, to a guest that does not read.
constexpr size_t kMostUnsentBytes = 256 * 1024;

}  // namespace

Process::~Process() { loop_.remove(timer_); }

Status Process::open_streams() {
  const auto room = [this] { let_through(); };
  out_ = GRANARY_TRY(OutputFifo::open(loop_, streams_.out, room));
  err_ = GRANARY_TRY(OutputFifo::open(loop_, streams_.terminal ? "" : streams_.err, room));
  if (streams_.in.empty()) return ok();
  in_ = GRANARY_TRY(InputFifo::open(loop_, streams_.in,
                                    {.data = [this](std::string_view bytes) { send_input(bytes); },
                                     .end =
                                         [this] {
                                           guest::v1::Request request;
                                           request.set_close_stdin(true);
                                           if (conversation_) (void)conversation_->send(request);
                                         }}));
  return ok();
}

Status Process::converse(const guest::v1::Request& first) {
  conversation_ = GRANARY_TRY(GuestConversation::open(loop_, guest_socket_,
                                                      {.reply = [this](guest::v1::Reply& reply) { on_reply(reply); },
                                                       .drained =
                                                           [this] {
                                                             if (in_ && phase_ == Phase::kRunning) in_->want_more();
                                                           },
                                                       .closed = [this](const Error& why) { on_closed(why); }}));
  return conversation_->send(first);
}

void Process::await(Done done) {
  awaiting_ = std::move(done);
  timer_ = loop_.call_at(EventLoop::Clock::now() + kAnswerLimit, [this] {
    timer_ = 0;
    on_closed({Errc::kGuestUnresponsive, name_ + ": the guest does not answer"});
  });
}

// The guest has answered, or cannot any more.
void Process::settle(const Status& result) {
  loop_.remove(std::exchange(timer_, 0));
  if (const Done done = std::exchange(awaiting_, nullptr)) done(result);
}

void Process::create(const guest::v1::Request& container_create, Done done) {
  await(std::move(done));
  if (const Status asked = converse(container_create); !asked) {
    loop_.post([this, why = asked.error()] { on_failure(why); });
  }
}

void Process::start(const guest::v1::Request& exec_or_start, Done done) {
  phase_ = Phase::kStarting;
  await(std::move(done));
  Status asked = ok();
  if (exec_or_start.has_exec()) {
    asked = converse(exec_or_start);
  } else if (conversation_) {
    asked = conversation_->send(exec_or_start);
  }
  if (!asked) loop_.post([this, why = asked.error()] { on_failure(why); });
}

void Process::on_reply(guest::v1::Reply& reply) {
  if (exit_) return on_closed({Errc::kGuestProtocol, name_ + ": the guest goes on after its end"});
  switch (reply.kind_case()) {
    case guest::v1::Reply::kStdoutData:
      return write_output(out_.get(), reply.stdout_data());
    case guest::v1::Reply::kStderrData:
      return write_output(err_.get(), reply.stderr_data());
    case guest::v1::Reply::kContainerCreated:
      if (phase_ != Phase::kCreating) break;
      phase_ = Phase::kCreated;
      in_guest_ = true;
      return settle(ok());
    case guest::v1::Reply::kStarted:
      if (phase_ != Phase::kStarting) break;
      return on_started();
    case guest::v1::Reply::kFailure:
      return on_failure(to_error(reply.failure()));
    case guest::v1::Reply::kOutOfMemory:
      return events_.out_of_memory();
    case guest::v1::Reply::kExited:
      return stop(static_cast<uint32_t>(reply.exited().status()) & 0xff,
                  rpc_error(Rpc::kFailedPrecondition, name_ + " ended before it was started"));
    default:
      break;
  }
  on_closed({Errc::kGuestProtocol, name_ + ": the guest sent what nobody waits for"});
}

void Process::on_started() {
  phase_ = Phase::kRunning;
  in_guest_ = true;
  settle(ok());
  if (in_) in_->want_more();
}

void Process::on_failure(const Error& why) {
  if (exit_) return;
  // A container that could not be started is still there, to be deleted; of anything else nothing is.
  if (!in_guest_) return stop(kNotStartedStatus, why);
  if (phase_ == Phase::kStarting) phase_ = Phase::kCreated;
  settle(why);
}

void Process::on_closed(const Error& why) {
  let_go(loop_, std::move(conversation_));
  if (exit_) return;
  log_line(LogLevel::kWarn, "%s is ended: %s", name_.c_str(), why.message().c_str());
  stop(kKilledStatus, why);
}

void Process::end(const Error& why) { on_closed(why); }

void Process::write_output(OutputFifo* to, const std::string& bytes) {
  if (to == nullptr || (killed_ && to->full())) return;
  to->write(bytes);
  if (to->full() && !killed_ && conversation_) conversation_->hold_back(true);
}

// From here on its end matters more than output that nobody reads.
void Process::note_killed() {
  killed_ = true;
  if (conversation_) conversation_->hold_back(false);
}

bool Process::has_unwritten_output() const { return (out_ && !out_->is_empty()) || (err_ && !err_->is_empty()); }

void Process::let_through() {
  if (conversation_ && !out_->full() && !err_->full()) conversation_->hold_back(false);
}

void Process::send_input(std::string_view bytes) {
  if (!conversation_ || phase_ != Phase::kRunning) return;
  guest::v1::Request request;
  request.set_stdin_data(bytes.data(), bytes.size());
  (void)conversation_->send(request);  // `drained` asks for more
}

Status Process::send_small(const guest::v1::Request& request) {
  if (!conversation_ && !exit_) return rpc_error(Rpc::kFailedPrecondition, name_ + " has not been started");
  if (!conversation_) return rpc_error(Rpc::kNotFound, name_ + " has ended");
  if (conversation_->unsent_bytes() > kMostUnsentBytes) {
    return rpc_error(Rpc::kUnavailable, name_ + ": the guest does not read");
  }
  return conversation_->send(request);
}

Status Process::signal(uint32_t number) {
  guest::v1::Request request;
  request.set_signal(static_cast<int32_t>(number));
  return send_small(request);
}

Status Process::resize(uint32_t rows, uint32_t columns) {
  guest::v1::Request request;
  request.mutable_window_size()->set_rows(rows);
  request.mutable_window_size()->set_columns(columns);
  return send_small(request);
}

void Process::close_input() {
  if (in_) in_->close_when_empty();
}

void Process::when_ended(std::function<void(const Exit&)> callback) {
  if (exit_) return callback(*exit_);
  waiting_.push_back(std::move(callback));
}

void Process::stop(uint32_t status, const Error& why_not_started) {
  if (exit_) return;
  exit_ = Exit{status, std::chrono::system_clock::now()};
  if (phase_ != Phase::kDeleting) phase_ = Phase::kStopped;
  if (out_) out_->finish();
  if (err_) err_->finish();
  // Later: it may be what is calling.
  if (in_) loop_.post([old = std::shared_ptr<InputFifo>(std::move(in_))] {});
  if (in_guest_) events_.exited();
  settle(why_not_started);
  std::vector<std::function<void(const Exit&)>> waiting;
  waiting.swap(waiting_);
  for (const auto& callback : waiting) callback(*exit_);
}

}  // namespace granary::shim
