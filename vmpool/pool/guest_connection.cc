// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/guest_connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "vmpool/pool/unix_socket.h"

namespace granary::pool {
namespace {

// "OK " and a 32-bit number.
constexpr size_t kLongestAnswer = 16;

// One read(2) into `into`, waiting for it until the deadline.
Result<size_t> read_some(int fd, std::span<char> into, SteadyTime deadline) {
  for (;;) {
    if (!GRANARY_TRY(wait_ready(fd, POLLIN, deadline))) return Error(Errc::kDeadlineExceeded, "wait for the guest");
    const ssize_t n = ::read(fd, into.data(), into.size());
    if (n > 0) return static_cast<size_t>(n);
    if (n == 0 || errno == ECONNRESET) return Error(Errc::kPeerGone, "the guest closed the connection");
    if (errno != EAGAIN && errno != EINTR) return Error::last_os_error("read from the guest");
  }
}

}  // namespace

Result<GuestConnection> GuestConnection::connect(const std::string& socket_path, uint32_t port, SteadyTime deadline) {
  GuestConnection connection(GRANARY_TRY(connect_unix(socket_path, SOCK_STREAM, deadline)));
  const Status done = connection.handshake(port, deadline);
  if (done) return connection;
  if (done.error().is(Errc::kDeadlineExceeded)) {
    return Error(Errc::kGuestUnresponsive, "no answer to CONNECT " + std::to_string(port));
  }
  return Error(done.error());
}

Status GuestConnection::handshake(uint32_t port, SteadyTime deadline) {
  GRANARY_TRY(send_bytes("CONNECT " + std::to_string(port) + "\n", deadline));
  std::string line;
  for (;;) {
    std::array<char, kLongestAnswer> buffer;
    const size_t n = GRANARY_TRY(read_some(socket_.get(), buffer, deadline));
    line.append(buffer.data(), n);
    const size_t end = line.find('\n');
    if (end != std::string::npos) {
      if (!line.starts_with("OK ")) return Error(Errc::kGuestProtocol, "answer to CONNECT is not OK");
      // The host speaks first, so there should be nothing behind it; if there is, the frame reader judges it.
      reader_.feed(std::as_bytes(std::span(line).subspan(end + 1)));
      return ok();
    }
    if (line.size() > kLongestAnswer) return Error(Errc::kGuestProtocol, "answer to CONNECT has no end");
  }
}

Status GuestConnection::send(const google::protobuf::MessageLite& message, SteadyTime deadline) {
  const std::string frame = GRANARY_TRY(guest::encode_frame(message));
  return send_bytes(frame, deadline);
}

Status GuestConnection::send_bytes(std::string_view bytes, SteadyTime deadline) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      if (!GRANARY_TRY(wait_ready(socket_.get(), POLLOUT, deadline))) {
        return Error(Errc::kDeadlineExceeded, "the guest does not read");
      }
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return Error(Errc::kPeerGone, "the guest closed the connection");
    } else if (errno != EINTR) {
      return Error::last_os_error("send to the guest");
    }
  }
  return ok();
}

Status GuestConnection::receive(google::protobuf::MessageLite& message, SteadyTime deadline) {
  for (;;) {
    const Result<bool> complete = reader_.next(message);
    if (!complete) return Error(Errc::kGuestProtocol, complete.error().message());
    if (*complete) return ok();
    if (!GRANARY_TRY(wait_ready(socket_.get(), POLLIN, deadline))) {
      return Error(Errc::kDeadlineExceeded, "wait for the guest");
    }
    if (GRANARY_TRY(reader_.read_from(socket_.get())) == guest::FrameReader::Read::kEnd) {
      // Frames that came before the end are still to be taken.
      const Result<bool> last = reader_.next(message);
      if (!last) return Error(Errc::kGuestProtocol, last.error().message());
      return *last ? ok() : Status(Error(Errc::kPeerGone, "the guest closed the connection"));
    }
  }
}

}  // namespace granary::pool
