// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/net_offload.h"

#include <linux/if_tun.h>

namespace granary::virtio::net {
namespace {

// Values of NetHeader::gso_type.
constexpr uint8_t kGsoNone = 0;
constexpr uint8_t kGsoTcp4 = 1;
constexpr uint8_t kGsoTcp6 = 4;
constexpr uint8_t kGsoEcn = 0x80;

}  // namespace

Status check_features(uint64_t features) {
  for (const Offloads& of : {kFromDriver, kFromTap}) {
    const bool segments = (features & (of.tso4 | of.tso6)) != 0;
    if ((segments && (features & of.csum) == 0) || (!segments && (features & of.ecn) != 0)) {
      return Error(Errc::kDeviceInvalid, "net: features with TSO but no checksums, or ECN but no TSO");
    }
  }
  return ok();
}

bool may_pass(const NetHeader& header, uint64_t features, const Offloads& of) {
  const auto has = [features](uint64_t feature) { return (features & feature) != 0; };
  if ((header.flags & kNeedsCsum) != 0 && !has(of.csum)) return false;
  if (header.gso_type == kGsoNone) return true;
  if ((header.flags & kNeedsCsum) == 0 && of.csum == kCsum) return false;
  if ((header.gso_type & kGsoEcn) != 0 && !has(of.ecn)) return false;
  switch (header.gso_type & ~kGsoEcn) {
    case kGsoTcp4:
      return has(of.tso4);
    case kGsoTcp6:
      return has(of.tso6);
    default:
      return false;
  }
}

unsigned tap_offloads_of(uint64_t features) {
  if ((features & kGuestCsum) == 0) return 0;
  return TUN_F_CSUM | ((features & kGuestTso4) != 0 ? TUN_F_TSO4 : 0U) |
         ((features & kGuestTso6) != 0 ? TUN_F_TSO6 : 0U) | ((features & kGuestEcn) != 0 ? TUN_F_TSO_ECN : 0U);
}

}  // namespace granary::virtio::net
