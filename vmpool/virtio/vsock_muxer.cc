// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/vsock_muxer.h"

#include <linux/vm_sockets.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "vmpool/base/machine_layout.h"

namespace granary::virtio {
namespace {

constexpr uint64_t kHostCid = VMADDR_CID_HOST;
// Clients accepted per wake-up, so that a flood of them does not hold the loop.
constexpr int kAcceptBatch = 16;
constexpr uint32_t kStreamEvents = EPOLLIN | EPOLLRDHUP | EPOLLET;

// "CONNECT <decimal>" without its newline.
std::optional<uint32_t> parse_connect(std::string_view line) {
  constexpr std::string_view kVerb = "CONNECT ";
  if (!line.starts_with(kVerb)) return std::nullopt;
  line.remove_prefix(kVerb.size());
  uint32_t port = 0;
  const auto [end, code] = std::from_chars(line.data(), line.data() + line.size(), port);
  if (code != std::errc() || end != line.data() + line.size() || port == VMADDR_PORT_ANY) return std::nullopt;
  return port;
}

}  // namespace

VsockMuxer::VsockMuxer(EventLoop& loop, uint64_t guest_cid, Fd listener, VsockOptions options,
                       std::function<void()> output_ready)
    : loop_(loop),
      guest_cid_(guest_cid),
      listener_(std::move(listener)),
      options_(options),
      output_ready_(std::move(output_ready)) {}

VsockMuxer::~VsockMuxer() { stop(); }

Status VsockMuxer::start() {
  running_ = true;
  if (!listener_.valid()) return ok();
  listener_watch_ = GRANARY_TRY(loop_.add(listener_.get(), EPOLLIN, [this](uint32_t) { accept_clients(); }));
  listener_wanted_ = true;
  return ok();
}

void VsockMuxer::stop() {
  running_ = false;
  loop_.remove(std::exchange(listener_watch_, 0));
  loop_.remove(std::exchange(timer_, 0));
  timer_due_ = Clock::time_point::max();
  for (auto& [key, entry] : connections_) loop_.remove(entry.watch);
  for (auto& [id, handshake] : handshakes_) loop_.remove(handshake.watch);
  connections_.clear();
  handshakes_.clear();
  ready_.clear();
  replies_.clear();
}

void VsockMuxer::watch_listener(bool wanted) {
  if (listener_watch_ == 0 || listener_wanted_ == wanted) return;
  listener_wanted_ = wanted;
  (void)loop_.modify(listener_watch_, wanted ? uint32_t{EPOLLIN} : 0U);
}

void VsockMuxer::accept_clients() {
  for (int n = 0; n < kAcceptBatch && !full(); ++n) {
    Fd stream(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!stream.valid()) {
      // Out of descriptors: the listener stays readable, so look away until a connection has ended.
      if ((errno == EMFILE || errno == ENFILE) && size() > 0) return watch_listener(false);
      break;
    }
    const uint64_t id = next_handshake_++;
    Result<EventLoop::Token> watch =
        loop_.add(stream.get(), kStreamEvents, [this, id](uint32_t events) { read_handshake(id, events); });
    if (!watch) break;
    const Clock::time_point deadline = Clock::now() + options_.timeout;
    handshakes_.emplace(id, Handshake{std::move(stream), *watch, deadline});
    arm_timer(deadline);
    read_handshake(id, 0);  // the line is often there already
  }
  watch_listener(!full());
}

void VsockMuxer::end_handshake(uint64_t id) {
  const auto found = handshakes_.find(id);
  if (found == handshakes_.end()) return;
  loop_.remove(found->second.watch);
  handshakes_.erase(found);
  watch_listener(!full());
}

void VsockMuxer::read_handshake(uint64_t id, uint32_t events) {
  const auto found = handshakes_.find(id);
  if (found == handshakes_.end()) return;
  Fd& stream = found->second.stream;
  // Peek, so that bytes behind the line stay in the socket: they are for the guest.
  char bytes[kMaxHandshakeBytes];
  const ssize_t n = ::recv(stream.get(), bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return end_handshake(id);
  const std::string_view seen(bytes, static_cast<size_t>(n));
  const size_t newline = seen.find('\n');
  if (newline == std::string_view::npos) {
    // Edge-triggered, so the bytes may stay until the rest of the line arrives.
    if (seen.size() == sizeof(bytes) || (events & (EPOLLRDHUP | EPOLLHUP)) != 0) end_handshake(id);
    return;
  }
  const std::optional<uint32_t> port = parse_connect(seen.substr(0, newline));
  if (!port || ::recv(stream.get(), bytes, newline + 1, MSG_DONTWAIT) != static_cast<ssize_t>(newline + 1)) {
    return end_handshake(id);
  }
  loop_.remove(found->second.watch);
  Fd ready = std::move(stream);
  handshakes_.erase(found);
  (void)adopt(std::move(ready), *port, true);
  watch_listener(!full());
}

VsockKey VsockMuxer::new_key(uint32_t guest_port) {
  for (;;) {
    const VsockKey key{guest_port, next_host_port_++};
    if (next_host_port_ == VMADDR_PORT_ANY) next_host_port_ = kFirstHostPort;
    if (!connections_.contains(key)) return key;
  }
}

Status VsockMuxer::adopt(Fd stream, uint32_t guest_port, bool with_handshake) {
  if (!running_) return Error(Errc::kNotSupported, "vsock connection before the guest's driver is active");
  if (full()) {
    return Error::from_errno(EMFILE,
                             "vsock connection beyond the limit of " + std::to_string(options_.max_connections));
  }
  GRANARY_TRY(set_nonblocking(stream.get()));
  const VsockKey key = new_key(guest_port);
  const int fd = stream.get();
  const EventLoop::Token watch =
      GRANARY_TRY(loop_.add(fd, kStreamEvents, [this, key](uint32_t events) { host_event(key, events); }));
  Entry& entry =
      connections_.emplace(key, Entry{VsockConnection(key, std::move(stream), with_handshake)}).first->second;
  entry.watch = watch;
  entry.events = kStreamEvents;
  settle(key, entry);
  output_ready_();
  return ok();
}

void VsockMuxer::host_event(VsockKey key, uint32_t events) {
  const auto found = connections_.find(key);
  if (found == connections_.end()) return;
  found->second.connection.host_event(events);
  settle(key, found->second);
  if (has_output()) output_ready_();
}

// Brings everything that hangs on a connection's state in line with it. May destroy the entry.
void VsockMuxer::settle(VsockKey key, Entry& entry) {
  VsockConnection& connection = entry.connection;
  const bool gone = connection.finished();
  if (entry.watch != 0 && (gone || connection.stream_done())) {
    loop_.remove(std::exchange(entry.watch, 0));
    connection.close_stream();
  }
  if (gone) {
    if (entry.queued) std::erase(ready_, key);
    connections_.erase(key);
    return watch_listener(!full());
  }
  const uint32_t events = kStreamEvents | (connection.wants_writable() ? uint32_t{EPOLLOUT} : 0U);
  if (entry.watch != 0 && events != entry.events) {
    entry.events = events;
    (void)loop_.modify(entry.watch, events);
  }
  if (connection.has_output() && !std::exchange(entry.queued, true)) ready_.push_back(key);
  if (!connection.awaits_guest()) {
    entry.deadline = Clock::time_point::max();
  } else if (entry.deadline == Clock::time_point::max()) {
    entry.deadline = Clock::now() + options_.timeout;
    arm_timer(entry.deadline);
  }
}

void VsockMuxer::refuse(const VsockHeader& header) {
  ++refused_packets_;
  if (header.op == VIRTIO_VSOCK_OP_RST) return;
  replies_.push_back({{header.src_port, header.dst_port}, header.type, VIRTIO_VSOCK_OP_RST});
}

// Accepted and answered at once. Whatever the guest sends then, SHUTDOWN for one, gets the RST of an unknown
// connection.
void VsockMuxer::tell_time(const VsockHeader& header) {
  if (header.buf_alloc < sizeof(int64_t)) return refuse(header);
  for (const uint16_t op : {VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_RW}) {
    replies_.push_back({{header.src_port, header.dst_port}, header.type, op});
  }
}

void VsockMuxer::receive(const VsockHeader& header, Chain& chain) {
  // 5.10.6: a packet whose addresses are not this device's is not ours to answer.
  if (header.src_cid != guest_cid_ || header.dst_cid != kHostCid) {
    ++refused_packets_;
    return;
  }
  const VsockKey key{header.src_port, header.dst_port};
  const auto found = connections_.find(key);
  const bool well_formed = header.type == VIRTIO_VSOCK_TYPE_STREAM &&
                           (header.op != VIRTIO_VSOCK_OP_RW || header.len <= chain.readable_left());
  if (found == connections_.end() && header.type == VIRTIO_VSOCK_TYPE_STREAM && header.op == VIRTIO_VSOCK_OP_REQUEST &&
      header.dst_port == machine::kClockVsockPort) {
    return tell_time(header);
  }
  if (found == connections_.end() || header.type != VIRTIO_VSOCK_TYPE_STREAM) return refuse(header);
  if (well_formed) {
    found->second.connection.receive(header, chain);
  } else {
    ++refused_packets_;
    found->second.connection.reset();
  }
  settle(key, found->second);
}

Result<bool> VsockMuxer::send(Chain& chain) {
  if (chain.writable_left() < kVsockMinRxBuffer) {
    return Error(Errc::kDeviceInvalid, "vsock rx buffer of " + std::to_string(chain.writable_left()) +
                                           " bytes; at least " + std::to_string(kVsockMinRxBuffer) + " are needed");
  }
  VsockHeader header{};
  header.src_cid = kHostCid;
  header.dst_cid = guest_cid_;
  if (!replies_.empty()) {
    send_reply(header, chain);
    return true;
  }
  while (!ready_.empty()) {
    const VsockKey key = ready_.front();
    ready_.pop_front();
    Entry& entry = connections_.at(key);
    entry.queued = false;
    const bool sent = GRANARY_TRY(entry.connection.send(header, chain));
    settle(key, entry);
    if (sent) return true;
  }
  return false;
}

void VsockMuxer::send_reply(VsockHeader& header, Chain& chain) {
  const Reply reply = replies_.front();
  replies_.pop_front();
  header.src_port = reply.key.host_port;
  header.dst_port = reply.key.guest_port;
  header.type = reply.type;
  header.op = reply.op;
  const std::chrono::nanoseconds now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t now_ns = now.count();
  const bool tells_time = reply.op == VIRTIO_VSOCK_OP_RW;
  header.len = tells_time ? sizeof(now_ns) : 0;
  chain.write(std::as_bytes(std::span(&header, 1)));
  if (tells_time) chain.write(std::as_bytes(std::span(&now_ns, 1)));
}

void VsockMuxer::arm_timer(Clock::time_point deadline) {
  if (deadline >= timer_due_) return;
  loop_.remove(std::exchange(timer_, 0));
  timer_due_ = deadline;
  timer_ = loop_.call_at(deadline, [this] { expire(); });
}

void VsockMuxer::expire() {
  timer_ = 0;
  timer_due_ = Clock::time_point::max();
  const Clock::time_point now = Clock::now();
  Clock::time_point next = Clock::time_point::max();
  std::vector<uint64_t> late_handshakes;
  for (const auto& [id, handshake] : handshakes_) {
    if (handshake.deadline <= now)
      late_handshakes.push_back(id);
    else
      next = std::min(next, handshake.deadline);
  }
  std::vector<VsockKey> late;
  for (const auto& [key, entry] : connections_) {
    if (entry.deadline <= now)
      late.push_back(key);
    else
      next = std::min(next, entry.deadline);
  }
  for (const uint64_t id : late_handshakes) end_handshake(id);
  for (const VsockKey key : late) {
    Entry& entry = connections_.at(key);
    entry.connection.reset();
    settle(key, entry);
  }
  if (next != Clock::time_point::max()) arm_timer(next);
  if (has_output()) output_ready_();
}

}  // namespace granary::virtio
