// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/session.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include "vmpool/base/log.h"
#include "vmpool/guest/init/failure.h"
#include "vmpool/guest/init/loopback_stream.h"

namespace granary::guest {
namespace {

constexpr uint32_t kProtocolNumber = 1;  // Ready.protocol

// Replies that may wait for the peer before its requests do. Output of a command waits earlier, when there is any.
constexpr size_t kOutboxLimit = 4 * kDataChunkBytes;

}  // namespace

Session::Session(Guest guest, Fd connection, std::function<void()> on_closed)
    : guest_(guest), connection_(std::move(connection)), watch_(guest.loop), on_closed_(std::move(on_closed)) {}

Result<std::unique_ptr<Session>> Session::create(Guest guest, Fd connection, std::function<void()> on_closed) {
  GRANARY_TRY(set_nonblocking(connection.get()));
  std::unique_ptr<Session> session(new Session(guest, std::move(connection), std::move(on_closed)));
  GRANARY_TRY(session->watch_.start(session->connection_.get(), EPOLLIN | EPOLLRDHUP,
                                    [s = session.get()](uint32_t events) { s->on_events(events); }));
  return session;
}

bool Session::may_read() const {
  return !closed_ && !broken_ && !waiting_ && outbox_.size() - outbox_sent_ < kOutboxLimit &&
         (!carried_ || carried_->accepts_input());
}

void Session::on_events(uint32_t events) {
  if (events & EPOLLOUT) flush();
  if (may_read()) {
    // Also on a hang-up: what the peer said before it still counts (PowerOff, then close).
    take_requests();
    if (may_read()) read_some();
  } else if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
    close();
  }
  settle();
}

void Session::read_some() {
  const Result<FrameReader::Read> read = reader_.read_from(connection_.get());
  if (read && *read == FrameReader::Read::kWouldBlock) return;
  if (read && *read == FrameReader::Read::kSome) {
    take_requests();
  } else {
    close();
  }
}

void Session::take_requests() {
  v1::Request request;
  while (may_read()) {
    const Result<bool> next = reader_.next(request);
    if (!next) {
      reply(failure(v1::Failure::INVALID, next.error().message()));
      broken_ = true;
      return;
    }
    if (!*next) return;
    handle(request);
  }
}

void Session::handle(v1::Request& request) {
  switch (request.kind_case()) {
    case v1::Request::kProbe: {
      v1::Reply ready;
      ready.mutable_ready()->set_nonce(request.probe().nonce());
      ready.mutable_ready()->set_protocol(kProtocolNumber);
      return reply(ready);
    }
    case v1::Request::kIdentity:
      return handle_identity(request.identity());
    case v1::Request::kExec:
    case v1::Request::kContainerCreate:
    case v1::Request::kConnect:
      return handle_carried(request);
    case v1::Request::kPod:
    case v1::Request::kContainerKill:
    case v1::Request::kContainerDelete:
    case v1::Request::kContainerUpdate:
    case v1::Request::kContainerFreeze:
    case v1::Request::kContainerQuery:
      return handle_containers(request);
    case v1::Request::kPowerOff:
      if (const Status off = guest_.system.power_off(); !off) reply(failure(off.error()));
      return;
    case v1::Request::KIND_NOT_SET:
      return reply(failure(v1::Failure::INVALID, "a request of no known kind: is the host newer than this guest?"));
    default:
      return handle_for_carried(request);
  }
}

void Session::handle_identity(const v1::Identity& identity) {
  const v1::Reply answer = guest_.identity.apply(identity);
  if (guest_.identity.applied()) guest_.clock.start();
  reply(answer);
}

void Session::handle_carried(v1::Request& request) {
  const std::string what = request.has_exec() ? "exec" : request.has_connect() ? "a connection" : "a container";
  if (!guest_.identity.applied()) {
    return reply(failure(v1::Failure::IDENTITY, what + " before the clone has its identity: send Identity first"));
  }
  if (carried_) {
    return reply(
        failure(v1::Failure::INVALID, "a second exec, container or connection in one conversation: open another one"));
  }
  if (const Status begun = begin(request); !begun) reply(failure(begun.error()));
}

Status Session::begin(v1::Request& request) {
  Carried::Owner owner;
  owner.reply = [this](const v1::Reply& said) { reply(said); };
  owner.wants_input = [this] {
    take_requests();
    settle();
  };
  if (request.has_connect()) {
    carried_ = GRANARY_TRY(LoopbackStream::connect(guest_.loop, request.connect(), std::move(owner)));
    return ok();
  }
  std::unique_ptr<Task> task;
  if (request.has_container_create()) {
    std::unique_ptr<ContainerTask> container =
        GRANARY_TRY(guest_.containers.create(std::move(*request.mutable_container_create()), std::move(owner)));
    container_ = container.get();
    task = std::move(container);
  } else if (!request.exec().container_id().empty()) {
    task = GRANARY_TRY(guest_.containers.exec(request.exec(), std::move(owner)));
  } else {
    task =
        GRANARY_TRY(Command::start(guest_.loop, guest_.reaper, std::move(*request.mutable_exec()), std::move(owner)));
  }
  task_ = task.get();
  carried_ = std::move(task);
  return ok();
}

void Session::handle_containers(const v1::Request& request) {
  if (!guest_.identity.applied()) {
    return reply(failure(v1::Failure::IDENTITY, "a pod before the clone has its identity: send Identity first"));
  }
  // The answer may come before this returns.
  waiting_ = true;
  guest_.containers.handle(request, [self = self_](const v1::Reply& answer) {
    Session* session = *self;
    if (session == nullptr) return;
    session->waiting_ = false;
    session->reply(answer);
    // The next request, if it is there already, has its turn from the loop.
    session->guest_.loop.post([self] {
      if (*self == nullptr) return;
      (*self)->take_requests();
      (*self)->settle();
    });
  });
}

void Session::handle_for_carried(v1::Request& request) {
  if (!carried_) return reply(failure(v1::Failure::INVALID, "input or a signal without an exec: send Exec first"));
  if (request.has_container_start()) {
    if (container_ != nullptr) return container_->start();
    return reply(failure(v1::Failure::INVALID, "start of a container that another conversation created, or none"));
  }
  switch (request.kind_case()) {
    case v1::Request::kStdinData:
      return carried_->write_input(std::move(*request.mutable_stdin_data()));
    case v1::Request::kCloseStdin:
      return carried_->close_input();
    default:
      return handle_for_task(request);
  }
}

void Session::handle_for_task(v1::Request& request) {
  if (task_ == nullptr) {
    return reply(failure(v1::Failure::INVALID, "a connection has neither signals nor a window"));
  }
  if (request.has_window_size()) return task_->resize(request.window_size());
  if (!task_->signal(request.signal())) {
    reply(failure(v1::Failure::INVALID, "signal " + std::to_string(request.signal()) + " does not exist"));
  }
}

void Session::reply(const v1::Reply& message) {
  if (closed_) return;
  const Result<std::string> frame = encode_frame(message);
  if (!frame) {
    log_line(LogLevel::kError, "reply dropped: %s", frame.error().message().c_str());
    return;
  }
  outbox_ += *frame;
  flush();
}

void Session::flush() {
  while (!closed_ && outbox_sent_ < outbox_.size()) {
    const ssize_t n = ::send(connection_.get(), outbox_.data() + outbox_sent_, outbox_.size() - outbox_sent_,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      outbox_sent_ += static_cast<size_t>(n);
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      close();
    }
  }
  if (outbox_sent_ == outbox_.size()) {
    outbox_.clear();
    outbox_sent_ = 0;
  }
  if (carried_) carried_->allow_output(outbox_.empty());
  settle();
}

// Brings what is waited for in line with the state, after anything has changed.
void Session::settle() {
  if (closed_) return;
  if (broken_ && outbox_.empty()) return close();
  if (carried_ && carried_->ended() && outbox_.empty() && !said_all_) {
    // Not closed yet: input on its way here would make the socket reset the connection and drop our last words.
    said_all_ = true;
    ::shutdown(connection_.get(), SHUT_WR);
  }
  const uint32_t events =
      EPOLLRDHUP | (may_read() ? uint32_t{EPOLLIN} : 0) | (outbox_.empty() ? 0 : uint32_t{EPOLLOUT});
  if (!watch_.start(connection_.get(), events, nullptr)) close();
}

void Session::close() {
  if (closed_) return;
  closed_ = true;
  watch_.stop();
  on_closed_();
}

}  // namespace granary::guest
