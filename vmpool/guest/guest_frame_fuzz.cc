// SPDX-License-Identifier: Apache-2.0
// A hostile stream for both directions of the guest protocol: any bytes, in chunks of any size, never crash the reader
// nor make it hold more than one frame and one chunk.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "vmpool/guest/frame.h"
#include "vmpool/guest/guest.pb.h"

namespace {

template <class Message>
void read_stream(std::span<const std::byte> stream, size_t chunk) {
  using granary::guest::kMaxFrameBytes;
  granary::guest::FrameReader reader;
  Message message;
  for (size_t at = 0; at < stream.size(); at += chunk) {
    const auto part = stream.subspan(at, std::min(chunk, stream.size() - at));
    reader.feed(part);
    for (;;) {
      const granary::Result<bool> next = reader.next(message);
      if (!next) return;
      if (!*next) break;
      // What was understood can be said again.
      if (!granary::guest::encode_frame(message)) std::abort();
    }
    if (reader.buffered_bytes() > kMaxFrameBytes + 4 + chunk) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t chunk = size_t{data[0]} + 1;
  const auto stream = std::as_bytes(std::span(data + 1, size - 1));
  read_stream<granary::guest::v1::Request>(stream, chunk);
  read_stream<granary::guest::v1::Reply>(stream, chunk);
  return 0;
}
