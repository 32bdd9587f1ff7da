// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/ttrpc_frame.h"

#include <algorithm>
#include <utility>

namespace granary::ttrpc {
namespace {

constexpr uint32_t kReservedLength = 1U << 24;

uint32_t load_be32(const char* bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

void store_be32(std::string& to, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) to.push_back(static_cast<char>(value >> shift & 0xff));
}

}  // namespace

Result<std::string> encode(FrameType type, uint32_t stream, std::string_view data) {
  if (data.size() > kMaxDataBytes) {
    return Error(Errc::kInvalidArgument, "a ttrpc message of " + std::to_string(data.size()) + " bytes; at most " +
                                             std::to_string(kMaxDataBytes) + " are possible");
  }
  std::string frame;
  frame.reserve(kHeaderBytes + data.size());
  store_be32(frame, static_cast<uint32_t>(data.size()));
  store_be32(frame, stream);
  frame.push_back(static_cast<char>(type));
  frame.push_back(0);
  frame.append(data);
  return frame;
}

void FrameParser::feed(std::string_view bytes) {
  const size_t skipped = std::min(skip_bytes_, bytes.size());
  skip_bytes_ -= skipped;
  bytes.remove_prefix(skipped);
  if (begin_ > 0) {
    buffer_.erase(0, begin_);
    begin_ = 0;
  }
  buffer_.append(bytes);
}

std::optional<Frame> FrameParser::skip() {
  const size_t here = std::min(skip_bytes_, buffered_bytes());
  begin_ += here;
  skip_bytes_ -= here;
  if (skip_bytes_ > 0) return std::nullopt;
  return std::exchange(skipped_, std::nullopt);
}

Result<std::optional<Frame>> FrameParser::next() {
  if (skipped_) return skip();
  if (buffered_bytes() < kHeaderBytes) return std::optional<Frame>();
  const char* header = buffer_.data() + begin_;
  const uint32_t length = load_be32(header);
  if (length >= kReservedLength) {
    return Error(Errc::kProtocolMalformed, "a ttrpc frame of " + std::to_string(length) + " bytes");
  }
  Frame frame{.stream = load_be32(header + 4),
              .type = static_cast<uint8_t>(header[8]),
              .flags = static_cast<uint8_t>(header[9]),
              .data = {},
              .too_long_bytes = 0};
  if (length > kMaxDataBytes) {
    frame.too_long_bytes = length;
    begin_ += kHeaderBytes;
    skip_bytes_ = length;
    skipped_ = std::move(frame);
    return skip();
  }
  if (buffered_bytes() - kHeaderBytes < length) return std::optional<Frame>();
  frame.data.assign(buffer_, begin_ + kHeaderBytes, length);
  begin_ += kHeaderBytes + length;
  if (begin_ == buffer_.size()) {
    buffer_.clear();
    begin_ = 0;
    if (buffer_.capacity() > kMaxDataBytes / 16) buffer_.shrink_to_fit();
  }
  return std::optional<Frame>(std::move(frame));
}

}  // namespace granary::ttrpc
