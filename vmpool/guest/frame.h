// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <google/protobuf/message_lite.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "vmpool/base/result.h"

// Framing of the guest protocol (guest.proto): each message is preceded by its length, an unsigned 32-bit little-endian
// integer. Used by granary-init and by the host's client over any stream socket. Each end treats the other as hostile.
namespace granary::guest {

// Longest message, its length prefix not counted.
inline constexpr size_t kMaxFrameBytes = 1 << 20;
// Most output or input bytes that one message should carry.
inline constexpr size_t kDataChunkBytes = 64 * 1024;

// The message with its length in front. kInvalidArgument if it is longer than kMaxFrameBytes.
Result<std::string> encode_frame(const google::protobuf::MessageLite& message);

// Takes a byte stream apart into messages. Holds at most one frame and what was read beyond it; whoever does not call
// next() must not go on reading. After an error the stream is out of step and the reader of no more use.
class FrameReader {
 public:
  enum class Read { kSome, kWouldBlock, kEnd };

  // `most_bytes`: longest frame that is taken.
  explicit FrameReader(size_t most_bytes = kMaxFrameBytes) : most_bytes_(most_bytes) {}

  // One read(2) of at most kDataChunkBytes from a stream. kEnd: the peer closed; what it sent before can still be
  // taken with next(). A reset connection is kEnd too.
  Result<Read> read_from(int fd);
  void feed(std::span<const std::byte> bytes);

  // The next complete frame, parsed into `message`: true; false if more bytes are needed. kProtocolMalformed for a
  // frame that is too long (told from its prefix alone) or one that does not parse.
  Result<bool> next(google::protobuf::MessageLite& message);

  [[nodiscard]] size_t buffered_bytes() const { return buffer_.size() - begin_; }

 private:
  [[nodiscard]] Result<std::optional<std::string_view>> next_payload();

  size_t most_bytes_;
  std::string buffer_;
  size_t begin_ = 0;  // bytes before it have been taken
};

// Sends one message on a stream socket, whole, waiting as long as the socket is full. kPeerGone after the peer closed.
Status send_message(int fd, const google::protobuf::MessageLite& message);

// Waits at most `timeout_ms` in all (-1: for ever) for one message; bytes beyond it stay in `reader`.
// kDeadlineExceeded; kPeerGone at end of stream, kProtocolMalformed if that is in the middle of a frame.
Status receive_message(int fd, FrameReader& reader, google::protobuf::MessageLite& message, int timeout_ms = -1);

}  // namespace granary::guest
