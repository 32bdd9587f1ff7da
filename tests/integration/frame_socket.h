// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "vmpool/base/fd.h"

namespace granary::integration {

// virtio_net_hdr of linux/virtio_net.h, as PACKET_VNET_HDR has it.
struct FrameOffload {
  uint8_t flags = 0;
  uint8_t gso_type = 0;
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0;
  uint16_t csum_start = 0;
  uint16_t csum_offset = 0;
};

// For tests and benchmarks: whole Ethernet frames on a link of the calling thread's network namespace (packet(7),
// root).
class FrameSocket {
 public:
  // Its own EtherType, for local experiments (IEEE 802): no stack looks at such frames.
  static constexpr uint16_t kExperiment = 0x88b5;

  // Receives what comes in with this EtherType, not what this end sends.
  static Result<FrameSocket> open(const std::string& link, uint16_t ether_type = kExperiment);

  [[nodiscard]] Status send(std::string_view frame, const FrameOffload& offload = {}) const;
  // The next frame; nothing when none has come within that time (0: does not wait; -1: for ever).
  Result<std::optional<std::string>> receive(int timeout_ms, FrameOffload* offload = nullptr);

 private:
  explicit FrameSocket(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
  std::string buffer_ = std::string(80'000, '\0');
};

// A frame of so many bytes (at least 60, without FCS) of that type, with a number that number_of() finds again and
// bytes that depend on it.
std::string numbered_frame(size_t bytes, uint64_t number, uint16_t ether_type = FrameSocket::kExperiment);
uint64_t number_of(std::string_view frame);

}  // namespace granary::integration
