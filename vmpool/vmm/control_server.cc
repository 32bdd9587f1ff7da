// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/control_server.h"

#include <poll.h>
#include <sys/epoll.h>

#include <cstring>

#include "vmpool/base/log.h"

namespace granary::vmm {
namespace {

// The request number of a message that may be garbage, so that its asker can tell which of its requests was refused.
uint32_t request_id(const RawMessage& raw) {
  control::Header header{};
  if (raw.bytes.size() < sizeof(header)) return 0;
  std::memcpy(&header, raw.bytes.data(), sizeof(header));
  return header.magic == control::kMagic ? header.request : 0;
}

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::create(EventLoop& loop, Fd socket, Callbacks callbacks) {
  GRANARY_TRY(set_nonblocking(socket.get()));
  std::unique_ptr<ControlServer> server(new ControlServer(loop, std::move(socket), std::move(callbacks)));
  ControlServer* self = server.get();
  server->token_ = GRANARY_TRY(loop.add(self->socket_.get(), EPOLLIN, [self](uint32_t e) { self->on_events(e); }));
  return server;
}

ControlServer::~ControlServer() { loop_.remove(token_); }

void ControlServer::on_events(uint32_t events) {
  if (unsent_) {
    if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) == 0) return;
    const std::function<Status()> send = std::exchange(unsent_, nullptr);
    queue_answer(send);
    if (!unsent_) (void)loop_.modify(token_, EPOLLIN);
    return;
  }
  read_one();
}

void ControlServer::read_one() {
  const Clock::time_point received = Clock::now();
  Result<RawMessage> raw = receive_message(socket_.get(), 0);
  if (!raw) {
    const Error& error = raw.error();
    if (error.is(Errc::kDeadlineExceeded) || error.is_errno(EAGAIN)) return;
    // An empty message looks like the end of the stream; only a hang-up is one.
    if (error.is(Errc::kPeerGone) && hung_up()) return leave();
    return refuse(0, error.is(Errc::kPeerGone) ? Error(Errc::kProtocolMalformed, "empty control message") : error);
  }
  const uint32_t id = request_id(*raw);
  Result<control::Message> message = control::parse(*std::move(raw));
  if (!message) return refuse(id, message.error());
  Result<Request> request = check_request(*std::move(message), callbacks_.phase());
  if (!request) return refuse(id, request.error());
  callbacks_.request(id, received, *request);
}

void ControlServer::refuse(uint32_t id, const Error& error) {
  ++malformed_;
  fail(id, error);
}

void ControlServer::fail(uint32_t id, const Error& error) {
  queue_answer([this, id, error] { return control::send_error(socket_.get(), id, error); });
}

void ControlServer::queue_answer(std::function<Status()> send) {
  const Status sent = send();
  if (sent || !sent.error().is_errno(EAGAIN)) return;
  // Only EPOLLOUT: the peer gets to ask again when it has read this.
  unsent_ = std::move(send);
  (void)loop_.modify(token_, EPOLLOUT);
}

bool ControlServer::hung_up() const {
  pollfd p{.fd = socket_.get(), .events = POLLIN, .revents = 0};
  return ::poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

void ControlServer::leave() {
  loop_.remove(token_);
  log_line(LogLevel::kInfo, "nobody holds the control socket any more");
  callbacks_.gone();
}

}  // namespace granary::vmm
