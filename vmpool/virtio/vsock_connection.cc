// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/vsock_connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cstdio>

namespace granary::virtio {
namespace {

constexpr size_t kMaxSegments = 32;
constexpr uint32_t kShutdownBoth = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND;

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

// Cuts `bytes` off the front of a list of segments.
std::span<iovec> trim_front(std::span<iovec> segments, size_t bytes) {
  while (!segments.empty() && bytes >= segments.front().iov_len) {
    bytes -= segments.front().iov_len;
    segments = segments.subspan(1);
  }
  if (!segments.empty()) {
    segments.front().iov_base = static_cast<std::byte*>(segments.front().iov_base) + bytes;
    segments.front().iov_len -= bytes;
  }
  return segments;
}

ssize_t send_segments(int fd, std::span<iovec> segments) {
  msghdr message{};
  message.msg_iov = segments.data();
  message.msg_iovlen = segments.size();
  return ::sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

VsockConnection::VsockConnection(VsockKey key, Fd stream, bool announce)
    : key_(key), stream_(std::move(stream)), announce_(announce) {}

uint32_t VsockConnection::credit() const {
  // All counters wrap; a guest that claims nonsense gets no credit, which harms only itself.
  const uint32_t in_flight = tx_count_ - peer_fwd_cnt_;
  return in_flight >= peer_buf_alloc_ ? 0 : peer_buf_alloc_ - in_flight;
}

bool VsockConnection::can_read() const {
  return phase_ == Phase::kOpen && readable_ && !host_ended_ && credit() > 0 &&
         (guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0;
}

bool VsockConnection::finished() const {
  switch (phase_) {
    case Phase::kGone:
      return true;
    case Phase::kReset:
      return pending_ == 0;
    case Phase::kDraining:
      return pending_ == 0 && to_host_.empty();
    default:
      return false;
  }
}

void VsockConnection::receive(const VsockHeader& header, Chain& chain) {
  if (header.op == VIRTIO_VSOCK_OP_RST) return guest_gone(false);
  if (phase_ == Phase::kReset || phase_ == Phase::kGone) return;  // it will learn, or has sent this before it did
  if (phase_ == Phase::kDraining) {
    pending_ |= kRst;
    return;
  }
  peer_buf_alloc_ = header.buf_alloc;
  peer_fwd_cnt_ = header.fwd_cnt;
  if (phase_ == Phase::kConnecting) {
    header.op == VIRTIO_VSOCK_OP_RESPONSE ? accepted() : reset();
  } else {
    operate(header, chain);
  }
  if (readable_ && phase_ == Phase::kOpen && credit() == 0 && !credit_asked_) {
    credit_asked_ = true;
    pending_ |= kCreditRequest;
  }
}

void VsockConnection::operate(const VsockHeader& header, Chain& chain) {
  switch (header.op) {
    case VIRTIO_VSOCK_OP_RW:
      return data_from_guest(header.len, chain);
    case VIRTIO_VSOCK_OP_SHUTDOWN:
      return shutdown_from_guest(header.flags & kShutdownBoth);
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
      return;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
      pending_ |= kCreditUpdate;
      return;
    default:
      return reset();
  }
}

void VsockConnection::accepted() {
  phase_ = Phase::kOpen;
  readable_ = true;  // an edge may have come before; the first read finds out
  if (!announce_) return;
  char line[24];
  const int length = std::snprintf(line, sizeof(line), "OK %u\n", key_.host_port);
  // The first bytes on a fresh socket: there is room for them.
  if (::send(stream_.get(), line, static_cast<size_t>(length), MSG_NOSIGNAL | MSG_DONTWAIT) != length) reset();
}

void VsockConnection::data_from_guest(uint32_t length, Chain& chain) {
  if ((guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0) return reset();
  rx_count_ += length;
  // The host's end is gone and the guest does not know yet.
  if (phase_ == Phase::kClosing) return forwarded(length);
  if (rx_count_ - forwarded_ > kVsockBufferBytes) return reset();  // sent without credit
  size_t left = length;
  while (left > 0 && to_host_.empty()) {
    std::array<iovec, kMaxSegments> segments;
    const ssize_t n = send_segments(stream_.get(), chain.next_readable(segments, left));
    if (n < 0 && would_block()) break;
    if (n < 0) return reset();
    chain.skip_readable(static_cast<size_t>(n));
    left -= static_cast<size_t>(n);
    forwarded(static_cast<size_t>(n));
  }
  std::array<iovec, 1> segment;
  while (left > 0 && !chain.next_readable(segment, left).empty()) {
    left -= to_host_.push({static_cast<const std::byte*>(segment[0].iov_base), segment[0].iov_len});
    chain.skip_readable(segment[0].iov_len);
  }
}

void VsockConnection::forwarded(size_t bytes) {
  forwarded_ += static_cast<uint32_t>(bytes);
  // Tell the guest before half of what it knows of is used up; every other packet tells it as well.
  const uint32_t seen_in_flight = rx_count_ - told_forwarded_;
  if (seen_in_flight > kVsockBufferBytes / 2 && forwarded_ != told_forwarded_) pending_ |= kCreditUpdate;
}

void VsockConnection::shutdown_from_guest(uint32_t flags) {
  guest_shutdown_ |= flags;
  if (phase_ == Phase::kClosing) {
    if (guest_shutdown_ == kShutdownBoth) guest_gone(true);
    return;
  }
  if (guest_shutdown_ == kShutdownBoth) return guest_gone(true);
  if ((flags & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0) ::shutdown(stream_.get(), SHUT_RD);
  flush_to_host();
}

void VsockConnection::guest_gone(bool owe_rst) {
  // 5.10.6.5: a clean close is answered with RST at once. What the guest has sent still reaches the host, then the
  // socket is closed.
  pending_ = owe_rst ? kRst : 0;
  phase_ = Phase::kDraining;
  flush_to_host();
}

// The host closed its end: a clean close towards the guest, which answers with RST.
void VsockConnection::host_gone() {
  stream_done_ = true;
  to_host_.clear();
  pending_ = static_cast<uint8_t>((pending_ & ~kCreditRequest) | kShutdown);
  phase_ = Phase::kClosing;
}

void VsockConnection::reset() {
  stream_done_ = true;
  to_host_.clear();
  // A request that was never sent needs no reset.
  const bool unknown_to_guest = (pending_ & kRequest) != 0;
  pending_ = unknown_to_guest ? 0 : kRst;
  phase_ = unknown_to_guest ? Phase::kGone : Phase::kReset;
}

void VsockConnection::close_stream() {
  // After a clean close by the guest the host is to read end of file, not ECONNRESET, which a unix socket gives when
  // bytes are left unread at close.
  std::array<std::byte, 4096> unread;
  for (int n = 0; phase_ == Phase::kDraining && n < 128; ++n) {
    if (::recv(stream_.get(), unread.data(), unread.size(), MSG_DONTWAIT) <= 0) break;
  }
  stream_.reset();
}

void VsockConnection::flush_to_host() {
  while (!to_host_.empty()) {
    const std::span<const std::byte> bytes = to_host_.front();
    const ssize_t n = ::send(stream_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && would_block()) return;
    if (n < 0 && phase_ == Phase::kDraining) return to_host_.clear();
    if (n < 0) return reset();
    to_host_.pop(static_cast<size_t>(n));
    forwarded(static_cast<size_t>(n));
  }
  if (phase_ == Phase::kOpen && (guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0 && !guest_ended_) {
    guest_ended_ = true;
    ::shutdown(stream_.get(), SHUT_WR);
  }
}

void VsockConnection::host_event(uint32_t events) {
  if (stream_done_) return;
  if ((events & EPOLLOUT) != 0) flush_to_host();
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) readable_ = true;
  host_hung_up_ = host_hung_up_ || (events & EPOLLHUP) != 0;
  if (host_hung_up_ && phase_ == Phase::kConnecting) return reset();
  if (host_hung_up_ && phase_ == Phase::kDraining) return to_host_.clear();
  if (phase_ != Phase::kOpen || (events & (EPOLLRDHUP | EPOLLHUP)) == 0) return;
  // Without credit nothing is read, so the end is looked for here: it needs no credit.
  if (nothing_to_read()) end_of_host_data();
}

bool VsockConnection::nothing_to_read() const {
  if (host_ended_ || (guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0) return true;
  std::byte byte;
  return ::recv(stream_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void VsockConnection::end_of_host_data() {
  const bool news = !std::exchange(host_ended_, true);
  readable_ = false;
  if (host_hung_up_) return host_gone();
  if (news) pending_ |= kShutdown;
}

void VsockConnection::finish_header(VsockHeader& header, uint16_t op, uint32_t length, uint32_t flags) {
  header.src_port = key_.host_port;
  header.dst_port = key_.guest_port;
  header.type = VIRTIO_VSOCK_TYPE_STREAM;
  header.op = op;
  header.len = length;
  header.flags = flags;
  header.buf_alloc = kVsockBufferBytes;
  header.fwd_cnt = forwarded_;
  told_forwarded_ = forwarded_;
  pending_ &= static_cast<uint8_t>(~kCreditUpdate);
}

bool VsockConnection::send_control(VsockHeader& header, Chain& chain, uint16_t op, uint32_t flags) {
  finish_header(header, op, 0, flags);
  chain.write(std::as_bytes(std::span(&header, 1)));
  return true;
}

Result<bool> VsockConnection::send(VsockHeader& header, Chain& chain) {
  const auto take = [this](Pending what) {
    const bool had = (pending_ & what) != 0;
    pending_ &= static_cast<uint8_t>(~what);
    return had;
  };
  if (take(kRequest)) return send_control(header, chain, VIRTIO_VSOCK_OP_REQUEST, 0);
  if (take(kRst)) return send_control(header, chain, VIRTIO_VSOCK_OP_RST, 0);
  if (take(kCreditRequest)) return send_control(header, chain, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0);
  if (can_read() && GRANARY_TRY(send_data(header, chain))) return true;
  // After send_data(): its end of file sets kShutdown, and an error of the socket sets kRst.
  if (take(kRst)) return send_control(header, chain, VIRTIO_VSOCK_OP_RST, 0);
  if (take(kShutdown)) {
    const uint32_t flags = phase_ == Phase::kClosing ? kShutdownBoth : uint32_t{VIRTIO_VSOCK_SHUTDOWN_SEND};
    return send_control(header, chain, VIRTIO_VSOCK_OP_SHUTDOWN, flags);
  }
  if (take(kCreditUpdate)) return send_control(header, chain, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0);
  return false;
}

Result<bool> VsockConnection::send_data(VsockHeader& header, Chain& chain) {
  const size_t limit = std::min<size_t>(credit(), kVsockMaxPayload);
  std::array<iovec, kMaxSegments> storage;
  const std::span<iovec> segments = trim_front(chain.next_writable(storage, sizeof(header) + limit), sizeof(header));
  if (segments.empty()) return Error(Errc::kDeviceInvalid, "vsock rx buffer in too many pieces for a packet");
  const ssize_t n = ::readv(stream_.get(), segments.data(), static_cast<int>(segments.size()));
  if (n < 0 && would_block()) {
    readable_ = errno == EINTR;
    return false;
  }
  if (n <= 0) {
    n == 0 ? end_of_host_data() : reset();
    return false;
  }
  tx_count_ += static_cast<uint32_t>(n);
  credit_asked_ = false;
  finish_header(header, VIRTIO_VSOCK_OP_RW, static_cast<uint32_t>(n), 0);
  chain.write(std::as_bytes(std::span(&header, 1)));
  chain.skip_writable(static_cast<size_t>(n));
  if (credit() == 0) {
    credit_asked_ = true;
    pending_ |= kCreditRequest;
  }
  return true;
}

}  // namespace granary::virtio
