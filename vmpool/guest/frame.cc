// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/frame.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>

namespace granary::guest {
namespace {

constexpr size_t kPrefixBytes = 4;

uint32_t load_le32(const char* bytes) {
  uint32_t value = 0;
  for (size_t i = kPrefixBytes; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

// Milliseconds until `deadline`, for poll(2); -1 without one.
int remaining_ms(const std::optional<std::chrono::steady_clock::time_point>& deadline) {
  if (!deadline) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::max<int64_t>(left.count(), 0));
}

// True when ready, false at the deadline.
Result<bool> wait_for(int fd, short events, const std::optional<std::chrono::steady_clock::time_point>& deadline) {
  for (;;) {
    pollfd entry{fd, events, 0};
    const int n = ::poll(&entry, 1, remaining_ms(deadline));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::last_os_error("poll the guest's connection");
    return n > 0;
  }
}

}  // namespace

Result<std::string> encode_frame(const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  if (size > kMaxFrameBytes) {
    return Error(Errc::kInvalidArgument, "a message of " + std::to_string(size) +
                                             " bytes to or from a guest; at most " + std::to_string(kMaxFrameBytes) +
                                             " are possible: send less at once");
  }
  std::string frame(kPrefixBytes + size, '\0');
  for (size_t i = 0; i < kPrefixBytes; ++i) frame[i] = static_cast<char>(size >> (8 * i) & 0xff);
  message.SerializeWithCachedSizesToArray(reinterpret_cast<uint8_t*>(frame.data() + kPrefixBytes));
  return frame;
}

Result<FrameReader::Read> FrameReader::read_from(int fd) {
  std::array<std::byte, kDataChunkBytes> chunk;
  for (;;) {
    const ssize_t n = ::read(fd, chunk.data(), chunk.size());
    if (n > 0) {
      feed(std::span(chunk).first(static_cast<size_t>(n)));
      return Read::kSome;
    }
    if (n == 0 || errno == ECONNRESET || errno == EPIPE) return Read::kEnd;
    if (errno == EAGAIN) return Read::kWouldBlock;
    if (errno != EINTR) return Error::last_os_error("read from the guest protocol's connection");
  }
}

void FrameReader::feed(std::span<const std::byte> bytes) {
  if (begin_ == buffer_.size()) {
    buffer_.clear();
    begin_ = 0;
    if (buffer_.capacity() > 4 * kDataChunkBytes) buffer_.shrink_to_fit();
  } else if (begin_ >= kDataChunkBytes) {
    buffer_.erase(0, begin_);
    begin_ = 0;
  }
  buffer_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Result<std::optional<std::string_view>> FrameReader::next_payload() {
  const std::string_view rest = std::string_view(buffer_).substr(begin_);
  if (rest.size() < kPrefixBytes) return std::optional<std::string_view>();
  const uint32_t size = load_le32(rest.data());
  if (size > most_bytes_) {
    return Error(Errc::kProtocolMalformed, "guest protocol: a frame of " + std::to_string(size) +
                                               " bytes announced; at most " + std::to_string(most_bytes_) +
                                               " are allowed");
  }
  if (rest.size() - kPrefixBytes < size) return std::optional<std::string_view>();
  begin_ += kPrefixBytes + size;
  return std::optional(rest.substr(kPrefixBytes, size));
}

Result<bool> FrameReader::next(google::protobuf::MessageLite& message) {
  const std::optional<std::string_view> payload = GRANARY_TRY(next_payload());
  if (!payload) return false;
  if (!message.ParseFromArray(payload->data(), static_cast<int>(payload->size()))) {
    return Error(Errc::kProtocolMalformed, "guest protocol: a frame of " + std::to_string(payload->size()) +
                                               " bytes is no " + message.GetTypeName());
  }
  return true;
}

Status send_message(int fd, const google::protobuf::MessageLite& message) {
  const std::string frame = GRANARY_TRY(encode_frame(message));
  for (size_t done = 0; done < frame.size();) {
    const ssize_t n = ::send(fd, frame.data() + done, frame.size() - done, MSG_NOSIGNAL);
    if (n >= 0) {
      done += static_cast<size_t>(n);
    } else if (errno == EAGAIN) {
      (void)GRANARY_TRY(wait_for(fd, POLLOUT, std::nullopt));
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return Error(Errc::kPeerGone, "send a message of the guest protocol");
    } else if (errno != EINTR) {
      return Error::last_os_error("send a message of the guest protocol");
    }
  }
  return ok();
}

Status receive_message(int fd, FrameReader& reader, google::protobuf::MessageLite& message, int timeout_ms) {
  std::optional<std::chrono::steady_clock::time_point> deadline;
  if (timeout_ms >= 0) deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (!GRANARY_TRY(reader.next(message))) {
    if (!GRANARY_TRY(wait_for(fd, POLLIN, deadline))) {
      return Error(Errc::kDeadlineExceeded, "wait for a message of the guest protocol");
    }
    if (GRANARY_TRY(reader.read_from(fd)) != FrameReader::Read::kEnd) continue;
    if (reader.buffered_bytes() == 0) return Error(Errc::kPeerGone, "wait for a message of the guest protocol");
    return Error(Errc::kProtocolMalformed, "guest protocol: the stream ended after " +
                                               std::to_string(reader.buffered_bytes()) + " bytes of a frame");
  }
  return ok();
}

}  // namespace granary::guest
