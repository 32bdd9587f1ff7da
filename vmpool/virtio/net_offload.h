// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "vmpool/base/result.h"

// Offloads of the net device (virtio 1.2, 5.1.3 and 5.1.6): which may be negotiated together, and which frames may
// pass. linux/virtio_net.h is not C++ (a field is named "class"), so its structure and numbers stand here.
namespace granary::virtio {

// As VIRTIO_F_VERSION_1 has it.
struct NetHeader {
  uint8_t flags = 0;
  uint8_t gso_type = 0;
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0;
  uint16_t csum_start = 0;
  uint16_t csum_offset = 0;
  uint16_t num_buffers = 0;
};
static_assert(sizeof(NetHeader) == 12);

namespace net {

// Feature bits, 5.1.3.
inline constexpr uint64_t kCsum = 1ULL << 0;
inline constexpr uint64_t kGuestCsum = 1ULL << 1;
inline constexpr uint64_t kMac = 1ULL << 5;
inline constexpr uint64_t kGuestTso4 = 1ULL << 7;
inline constexpr uint64_t kGuestTso6 = 1ULL << 8;
inline constexpr uint64_t kGuestEcn = 1ULL << 9;
inline constexpr uint64_t kHostTso4 = 1ULL << 11;
inline constexpr uint64_t kHostTso6 = 1ULL << 12;
inline constexpr uint64_t kHostEcn = 1ULL << 13;
inline constexpr uint64_t kMergeBuffers = 1ULL << 15;
inline constexpr uint64_t kStatus = 1ULL << 16;

// Bits of NetHeader::flags.
inline constexpr uint8_t kNeedsCsum = 1;
inline constexpr uint8_t kDataValid = 2;

// The offloads of one direction.
struct Offloads {
  uint64_t csum, tso4, tso6, ecn;
};
inline constexpr Offloads kFromDriver = {kCsum, kHostTso4, kHostTso6, kHostEcn};
inline constexpr Offloads kFromTap = {kGuestCsum, kGuestTso4, kGuestTso6, kGuestEcn};

// 5.1.3.1: which features need another one. kDeviceInvalid: the driver took one without the other.
Status check_features(uint64_t features);
// May a frame with this header pass? From a driver: 5.1.6.2.1. From the tap: frames that waited in it while another
// driver, or none, had other features.
bool may_pass(const NetHeader& header, uint64_t features, const Offloads& of);
// TUN_F_* of TUNSETOFFLOAD.
unsigned tap_offloads_of(uint64_t features);

}  // namespace net
}  // namespace granary::virtio
