// SPDX-License-Identifier: Apache-2.0
#pragma once

// For tests: the frames of guests that have no kernel.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "netplumb/routed_network.h"
#include "vmpool/base/fd.h"

namespace granary::netplumb {

using Frame = std::vector<uint8_t>;

struct Udp {
  MacAddress source_mac{};
  MacAddress destination_mac{};
  IpAddress source;
  IpAddress destination;
  uint16_t source_port = 4000;
  uint16_t destination_port = 4000;
  std::string text;
};
Frame udp_frame(const Udp& udp);
// Of IPv4 addresses; `operation` 1: request, 2: reply.
Frame arp_frame(uint16_t operation, const MacAddress& source_mac, const IpAddress& source, const IpAddress& target);
// The same frame with an IEEE 802.1Q tag.
Frame tagged(const Frame& frame, uint16_t vlan);

// A guest at the other end of a tap (tap.h), without a kernel.
class TapGuest {
 public:
  TapGuest(const RoutedNetwork& network, uint32_t guest, Fd tap)
      : network_(network), guest_(guest), tap_(std::move(tap)) {}

  [[nodiscard]] uint32_t number() const { return guest_; }
  [[nodiscard]] IpAddress address() const { return address_of(network_, guest_); }
  // What it would send if it were well-behaved, for a test to change.
  [[nodiscard]] Udp udp_to(const IpAddress& destination, const std::string& text) const;
  // `gso_bytes`: a UDP datagram that the host is to segment into such parts (virtio 1.2, 5.1.6.1).
  void send(const Frame& frame, uint16_t gso_bytes = 0) const;
  void send(const Udp& udp) const { send(udp_frame(udp)); }
  // The next frame that has arrived, without waiting for one.
  [[nodiscard]] std::optional<Frame> receive() const;
  [[nodiscard]] int tap() const { return tap_.get(); }

 private:
  const RoutedNetwork network_;
  const uint32_t guest_;
  const Fd tap_;
};

}  // namespace granary::netplumb
