// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "vmpool/base/result.h"

// ttrpc's framing (github.com/containerd/ttrpc, PROTOCOL.md): 32-bit big-endian length of the data, 32-bit big-endian
// stream number, 8-bit type, 8-bit flags, data. Unary calls only: one request, one response, on a stream of their own.
namespace granary::ttrpc {

inline constexpr size_t kHeaderBytes = 10;
inline constexpr size_t kMaxDataBytes = 4 << 20;

enum class FrameType : uint8_t { kRequest = 1, kResponse = 2, kData = 3 };

struct Frame {
  uint32_t stream = 0;
  uint8_t type = 0;  // FrameType, or what a newer peer knows
  uint8_t flags = 0;
  std::string data;
  uint32_t too_long_bytes = 0;  // not 0: its data was longer than kMaxDataBytes, so long, and skipped
};

// kInvalidArgument when the data is longer than kMaxDataBytes.
Result<std::string> encode(FrameType type, uint32_t stream, std::string_view data);

// Takes a byte stream apart into frames. Holds at most one frame and what was fed beyond it, so call next() until it
// gives nothing after each feed(). The peer is hostile.
class FrameParser {
 public:
  void feed(std::string_view bytes);
  // kProtocolMalformed for a length of 16 MiB and more, whose first byte is reserved: the stream cannot be trusted any
  // longer.
  Result<std::optional<Frame>> next();
  [[nodiscard]] size_t buffered_bytes() const { return buffer_.size() - begin_; }
  // In the middle of a frame: where the stream ends now, it is truncated.
  [[nodiscard]] bool incomplete() const { return buffered_bytes() > 0 || skip_bytes_ > 0; }

 private:
  std::optional<Frame> skip();

  std::string buffer_;
  size_t begin_ = 0;
  std::optional<Frame> skipped_;  // a frame whose data is being skipped
  size_t skip_bytes_ = 0;
};

}  // namespace granary::ttrpc
