// SPDX-License-Identifier: Apache-2.0
#include "netplumb/own_frames.h"

#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>

namespace granary::netplumb {
namespace {

// Offsets into a frame.
constexpr uint32_t kSource = 6;
constexpr uint32_t kType = 12;
constexpr uint32_t kPayload = 14;
constexpr uint32_t kArpSenderMac = kPayload + 8;
constexpr uint32_t kArpSenderAddress = kPayload + 14;
constexpr uint32_t kIpv4Source = kPayload + 12;
constexpr uint32_t kIpv6Next = kPayload + 6;
constexpr uint32_t kIpv6Source = kPayload + 8;
constexpr uint32_t kIpv6Payload = kPayload + 40;
constexpr uint32_t kExtension = 8;  // bytes of a fragment header, and of an options header of one unit

constexpr uint32_t kFragmentOffset = 0xfff8;

constexpr uint32_t kEthernetArp = 0x0001'0800;  // hardware type 1, protocol IPv4
constexpr uint32_t kArpLengths = 0x0604;        // of a MAC and an IPv4 address
// ICMPv6 types.
constexpr uint32_t kListenerReport = 131;
constexpr uint32_t kListenerDone = 132;
constexpr uint32_t kRouterSolicitation = 133;
constexpr uint32_t kRouterAdvertisement = 134;
constexpr uint32_t kNeighbourAdvertisement = 136;
constexpr uint32_t kRedirect = 137;
constexpr uint32_t kListenerReportV2 = 143;
constexpr uint32_t kMobility = 135;  // IP protocols that netinet/in.h lacks
constexpr uint32_t kHip = 139;
constexpr uint32_t kShim6 = 140;

constexpr auto kPass = static_cast<uint32_t>(TC_ACT_UNSPEC);
constexpr uint32_t kDrop = TC_ACT_SHOT;

uint32_t word_of(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}
uint32_t half_of(const uint8_t* bytes) { return uint32_t{bytes[0]} << 8 | bytes[1]; }

// A part of a program. What is built in it runs from its first to its last instruction, or ends the program.
class Part {
 public:
  Part& load(uint16_t size, uint32_t offset) { return add(BPF_LD | BPF_ABS | size, offset); }
  // A load from beyond its end would end the program with 0, TC_ACT_OK: the namespace's own stack would get the frame.
  Part& at_least(uint32_t bytes) {
    add(BPF_LD | BPF_W | BPF_LEN, 0);
    return add(BPF_JMP | BPF_JGE | BPF_K, bytes, 1, 0).end(kDrop);
  }
  // Of what was loaded.
  Part& keep(uint32_t bits) { return add(BPF_ALU | BPF_AND | BPF_K, bits); }
  Part& require(uint32_t value) { return add(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0).end(kDrop); }
  Part& require(uint16_t size, uint32_t offset, uint32_t value) { return load(size, offset).require(value); }
  Part& end_if(uint32_t value, uint32_t verdict) { return add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1).end(verdict); }
  Part& end(uint32_t verdict) { return add(BPF_RET | BPF_K, verdict); }
  // `body`, where what was loaded is `value`.
  Part& when(uint32_t value, const Part& body) {
    add(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0);
    add(BPF_JMP | BPF_JA, static_cast<uint32_t>(body.code_.size()));
    code_.insert(code_.end(), body.code_.begin(), body.code_.end());
    return *this;
  }
  Part& require_mac(uint32_t offset, const MacAddress& mac) {
    return require(BPF_W, offset, word_of(mac.data())).require(BPF_H, offset + 4, half_of(&mac[4]));
  }
  // Each is compared word by word, to the next one's start where one differs.
  Part& require_one_of(uint32_t offset, const std::vector<IpAddress>& addresses) {
    std::vector<size_t> found;
    for (const IpAddress& one : addresses) {
      const uint32_t words = one.v6 ? 4 : 1;
      for (uint32_t word = 0; word < words; ++word) {
        const auto to_next = static_cast<uint8_t>((words - word - 1) * 2 + 1);
        load(BPF_W, offset + word * 4);
        add(BPF_JMP | BPF_JEQ | BPF_K, word_of(&one.bytes[word * 4]), 0, to_next);
      }
      found.push_back(code_.size());
      add(BPF_JMP | BPF_JA, 0);
    }
    end(kDrop);
    for (const size_t jump : found) code_[jump].k = static_cast<uint32_t>(code_.size() - jump - 1);
    return *this;
  }
  std::vector<sock_filter> take() { return std::move(code_); }

 private:
  Part& add(int code, uint32_t k, uint8_t if_true = 0, uint8_t if_false = 0) {
    code_.push_back({.code = static_cast<uint16_t>(code), .jt = if_true, .jf = if_false, .k = k});
    return *this;
  }
  std::vector<sock_filter> code_;
};

Part arp(const MacAddress& mac, const std::vector<IpAddress>& own) {
  Part part;
  part.at_least(kPayload + 28).require(BPF_W, kPayload, kEthernetArp).require(BPF_H, kPayload + 4, kArpLengths);
  part.require_mac(kArpSenderMac, mac).require_one_of(kArpSenderAddress, own);
  return part.end(kPass);
}

Part ipv4(const std::vector<IpAddress>& own) {
  Part part;
  return part.at_least(kPayload + 20).require_one_of(kIpv4Source, own).end(kPass);
}

Part icmpv6(const std::vector<IpAddress>& own) {
  Part advertisement;
  advertisement.at_least(kIpv6Payload + 24).require_one_of(kIpv6Payload + 8, own).end(kPass);
  Part part;
  part.at_least(kIpv6Payload + 4).load(BPF_B, kIpv6Payload);
  part.end_if(kRouterAdvertisement, kDrop).end_if(kRedirect, kDrop);
  return part.when(kNeighbourAdvertisement, advertisement).end(kPass);
}

Part router_alert() {
  Part part;
  part.at_least(kIpv6Payload + kExtension + 1).require(BPF_H, kIpv6Payload, IPPROTO_ICMPV6 << 8);  // and of one unit
  part.load(BPF_B, kIpv6Payload + kExtension);
  for (const uint32_t type : {kListenerReport, kListenerDone, kListenerReportV2}) part.end_if(type, kPass);
  return part.end(kDrop);
}

// What is a header of its own could have any other behind it.
Part& drop_extensions(Part& part) {
  for (const uint32_t next : {uint32_t{IPPROTO_HOPOPTS}, uint32_t{IPPROTO_ROUTING}, uint32_t{IPPROTO_FRAGMENT},
                              uint32_t{IPPROTO_AH}, uint32_t{IPPROTO_DSTOPTS}, kMobility, kHip, kShim6}) {
    part.end_if(next, kDrop);
  }
  return part;
}

Part fragment() {
  Part first;  // only there the type is to be seen, and without that one the rest is nothing
  first.load(BPF_H, kIpv6Payload + 2).keep(kFragmentOffset);
  Part typed;
  typed.at_least(kIpv6Payload + kExtension + 1).load(BPF_B, kIpv6Payload + kExtension);
  for (uint32_t type = kRouterSolicitation; type <= kRedirect; ++type) typed.end_if(type, kDrop);
  typed.end(kPass);
  first.when(0, typed).end(kPass);
  Part part;
  part.at_least(kIpv6Payload + kExtension).load(BPF_B, kIpv6Payload);
  return drop_extensions(part).when(IPPROTO_ICMPV6, first).end(kPass);
}

Part ipv6(const std::vector<IpAddress>& own) {
  Part part;
  part.at_least(kIpv6Payload).require_one_of(kIpv6Source, own).load(BPF_B, kIpv6Next);
  part.when(IPPROTO_ICMPV6, icmpv6(own)).when(IPPROTO_HOPOPTS, router_alert()).when(IPPROTO_FRAGMENT, fragment());
  return drop_extensions(part).end(kPass);
}

}  // namespace

Result<std::vector<sock_filter>> own_frames_program(const MacAddress& mac, std::span<const IpAddress> addresses) {
  if (addresses.size() > kMostOwnAddresses) {
    return Error(Errc::kNotSupported, std::to_string(addresses.size()) +
                                          " addresses, but anti_spoofing compares with " +
                                          std::to_string(kMostOwnAddresses) +
                                          " at most; give it fewer, or have a pool without anti_spoofing serve it");
  }
  std::vector<IpAddress> v4;
  std::vector<IpAddress> v6;
  for (const IpAddress& one : addresses) (one.v6 ? v6 : v4).push_back(one);
  Part all;
  all.require(BPF_B, static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT), 0);
  all.at_least(kPayload).require_mac(kSource, mac).load(BPF_H, kType);
  all.when(ETH_P_ARP, arp(mac, v4)).when(ETH_P_IP, ipv4(v4)).when(ETH_P_IPV6, ipv6(v6)).end(kDrop);
  return all.take();
}

}  // namespace granary::netplumb
