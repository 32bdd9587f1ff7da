// SPDX-License-Identifier: Apache-2.0
#include "netplumb/guest_frames.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace granary::netplumb {
namespace {

constexpr size_t kEthernet = 14;
constexpr size_t kIp = 20;
constexpr size_t kUdp = 8;

// struct virtio_net_hdr (virtio 1.2, 5.1.6), whose header is not C++.
struct VnetHeader {
  uint8_t flags = 0;
  uint8_t gso_type = 0;
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0;
  uint16_t csum_start = 0;
  uint16_t csum_offset = 0;
};
constexpr uint8_t kNeedsChecksum = 1;
constexpr uint8_t kUdpSegmentation = 5;
constexpr size_t kVnetHeader = 10;
static_assert(sizeof(VnetHeader) == kVnetHeader);

void put16(Frame& frame, size_t at, size_t value) {
  frame[at] = static_cast<uint8_t>(value >> 8);
  frame[at + 1] = static_cast<uint8_t>(value);
}

void put(Frame& frame, size_t at, std::span<const uint8_t> bytes) {
  std::ranges::copy(bytes, frame.begin() + static_cast<ptrdiff_t>(at));
}

// Of RFC 1071, not complemented.
uint32_t sum(const Frame& frame, size_t from, size_t to, uint32_t value = 0) {
  for (size_t at = from; at < to; at += 2) {
    value += static_cast<uint32_t>(frame[at] << 8 | (at + 1 < to ? frame[at + 1] : 0));
  }
  while (value >> 16 != 0) value = (value & 0xffff) + (value >> 16);
  return value;
}

}  // namespace

Frame udp_frame(const Udp& udp) {
  const size_t datagram = kUdp + udp.text.size();
  Frame frame(kEthernet + kIp + datagram);
  put(frame, 0, udp.destination_mac);
  put(frame, 6, udp.source_mac);
  put16(frame, 12, 0x0800);
  frame[14] = 0x45;
  put16(frame, 16, kIp + datagram);
  frame[22] = 64;
  frame[23] = 17;
  put(frame, 26, std::span(udp.source.bytes).first(4));
  put(frame, 30, std::span(udp.destination.bytes).first(4));
  put16(frame, 24, ~sum(frame, kEthernet, kEthernet + kIp) & 0xffff);
  put16(frame, 34, udp.source_port);
  put16(frame, 36, udp.destination_port);
  put16(frame, 38, datagram);
  std::ranges::copy(udp.text, frame.begin() + kEthernet + kIp + kUdp);
  // The pseudo header (RFC 768), which a device that segments is given instead of a checksum.
  put16(frame, 40, sum(frame, 26, 34, static_cast<uint32_t>(17 + datagram)));
  return frame;
}

Frame arp_frame(uint16_t operation, const MacAddress& source_mac, const IpAddress& source, const IpAddress& target) {
  Frame frame(42);
  std::fill_n(frame.begin(), 6, uint8_t{0xff});
  put(frame, 6, source_mac);
  put16(frame, 12, 0x0806);
  put(frame, 14, std::array<uint8_t, 6>{0, 1, 8, 0, 6, 4});
  put16(frame, 20, operation);
  put(frame, 22, source_mac);
  put(frame, 28, std::span(source.bytes).first(4));
  put(frame, 38, std::span(target.bytes).first(4));
  return frame;
}

Frame tagged(const Frame& frame, uint16_t vlan) {
  Frame with = frame;
  const std::array<uint8_t, 4> tag = {0x81, 0x00, static_cast<uint8_t>(vlan >> 8), static_cast<uint8_t>(vlan)};
  with.insert(with.begin() + 12, tag.begin(), tag.end());
  return with;
}

Udp TapGuest::udp_to(const IpAddress& destination, const std::string& text) const {
  return {.source_mac = mac_of(network_, guest_),
          .destination_mac = gateway_mac(),
          .source = address(),
          .destination = destination,
          .text = text};
}

void TapGuest::send(const Frame& frame, uint16_t gso_bytes) const {
  VnetHeader header;
  if (frame.size() > kEthernet + kIp + kUdp && frame[12] == 0x08 && frame[13] == 0x00 && frame[23] == 17) {
    header.flags = kNeedsChecksum;
    header.csum_start = kEthernet + kIp;
    header.csum_offset = 6;
  }
  if (gso_bytes != 0) {
    header.gso_type = kUdpSegmentation;
    header.gso_size = gso_bytes;
    header.hdr_len = kEthernet + kIp + kUdp;
  }
  Frame with(kVnetHeader);
  std::ranges::copy(std::span(reinterpret_cast<const uint8_t*>(&header), kVnetHeader), with.begin());
  with.insert(with.end(), frame.begin(), frame.end());
  // A frame that the kernel refuses is as good as one that it drops.
  (void)!::write(tap_.get(), with.data(), with.size());
}

std::optional<Frame> TapGuest::receive() const {
  std::array<uint8_t, 65536 + kVnetHeader> buffer;
  const ssize_t n = ::read(tap_.get(), buffer.data(), buffer.size());
  if (n < static_cast<ssize_t>(kVnetHeader)) return std::nullopt;
  return Frame(buffer.begin() + kVnetHeader, buffer.begin() + n);
}

}  // namespace granary::netplumb
