// SPDX-License-Identifier: Apache-2.0
// A hostile ttrpc stream, in chunks of any size, never crashes the parser nor makes it hold more than one frame and one
// chunk.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "agent/shim/ttrpc_frame.h"
#include "containerd/ttrpc.pb.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t chunk = size_t{data[0]} + 1;
  const std::string_view stream(reinterpret_cast<const char*>(data) + 1, size - 1);
  granary::ttrpc::FrameParser parser;
  for (size_t at = 0; at < stream.size(); at += chunk) {
    parser.feed(stream.substr(at, chunk));
    for (;;) {
      auto frame = parser.next();
      if (!frame) return 0;
      if (!*frame) break;
      ttrpc::Request request;
      if (request.ParseFromString((*frame)->data) && request.ByteSizeLong() > 2 * granary::ttrpc::kMaxDataBytes)
        std::abort();
    }
    if (parser.buffered_bytes() > granary::ttrpc::kMaxDataBytes + granary::ttrpc::kHeaderBytes + chunk) std::abort();
  }
  return 0;
}
