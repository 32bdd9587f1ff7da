// SPDX-License-Identifier: Apache-2.0
// What leaves a pod whose guest may send in its interface's name only (Frames::kOwn).
#include "netplumb/own_frames.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>

#include "netplumb/attach_fixture.h"
#include "netplumb/guest_frames.h"
#include "netplumb/ip_text.h"
#include "netplumb/netns.h"

namespace granary::netplumb {
namespace {

using testing::AllOf;
using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr MacAddress kOwnMac{2, 0, 0, 0, 0, 5};
constexpr MacAddress kOtherMac{2, 0, 0, 0, 0, 6};
constexpr MacAddress kAllNodes{0x33, 0x33, 0, 0, 0, 1};
constexpr const char* kLinkLocal = "fe80::ff:fe00:5";  // of kOwnMac

IpAddress ip(const char* text) {
  if (std::string_view(text).find(':') == std::string_view::npos) return *parse_address(text);
  IpAddress address{.v6 = true, .bytes = {}};
  EXPECT_EQ(::inet_pton(AF_INET6, text, address.bytes.data()), 1) << text;
  return address;
}

using Bytes = std::vector<uint8_t>;

Bytes operator+(Bytes first, const Bytes& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

// Whoever looks does so below IP: no checksums.
Frame ipv6(const char* source, uint8_t next, const Bytes& payload, const MacAddress& mac = kOwnMac) {
  Frame frame(kAllNodes.begin(), kAllNodes.end());
  frame.insert(frame.end(), mac.begin(), mac.end());
  const auto length = static_cast<uint8_t>(payload.size());
  frame = frame + Bytes{0x86, 0xdd, 0x60, 0, 0, 0, 0, length, next, 255};
  for (const IpAddress& one : {ip(source), ip("ff02::1")})
    frame.insert(frame.end(), one.bytes.begin(), one.bytes.end());
  return frame + payload;
}

constexpr uint8_t kHopByHop = 0;
constexpr uint8_t kUdp = 17;
constexpr uint8_t kRouting = 43;
constexpr uint8_t kFragment = 44;
constexpr uint8_t kIcmp = 58;
constexpr uint8_t kDestination = 60;

Bytes icmp(uint8_t type) { return Bytes{type, 0, 0, 0} + Bytes(20, 0); }
// A neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4).
Bytes neighbour(uint8_t type, const char* target) {
  const IpAddress address = ip(target);
  return Bytes{type, 0, 0, 0, 0x60, 0, 0, 0} + Bytes(address.bytes.begin(), address.bytes.end());
}
// An options or fragment header of one unit, in front of `next`.
Bytes extension(uint8_t next, uint16_t word = 0) {
  return {next, 0, static_cast<uint8_t>(word >> 8), static_cast<uint8_t>(word), 0, 0, 0, 7};
}

Frame udp(const char* source, const MacAddress& mac = kOwnMac) {
  return udp_frame({.source_mac = mac,
                    .destination_mac = kOtherMac,
                    .source = ip(source),
                    .destination = ip("10.3.0.1"),
                    .text = "a datagram"});
}

Frame with(Frame frame, size_t at, uint8_t value) {
  frame.at(at) = value;
  return frame;
}

class OwnFramesTest : public AttachTest {
 protected:
  void SetUp() override {
    AttachTest::SetUp();
    if (IsSkipped()) return;
    configure(
        "ip addr add 10.3.0.2/24 dev eth0; ip addr add 10.3.0.7/32 dev eth0; ip addr add fd03::2/64 dev eth0 nodad",
        "ip addr add 10.3.0.1/24 dev host0; ip addr add fd03::1/64 dev host0 nodad");
    ASSERT_TRUE(in_netns(host_.fd(), [&]() -> Status {
      observer_ = Fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL)));
      sockaddr_ll address{};
      address.sll_family = AF_PACKET;
      address.sll_protocol = htons(ETH_P_ALL);
      address.sll_ifindex = static_cast<int>(::if_nametoindex("host0"));
      if (::bind(observer_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return ok();
      return Error::last_os_error("observe host0");
    }));
  }
  // What comes out of the pod of these frames, in order.
  [[nodiscard]] std::vector<Frame> seen_of(const std::vector<Frame>& frames) const {
    (void)until(with(udp("10.3.0.2"), 50, 'a'));  // of the namespace's own stack, before it was attached
    for (const Frame& frame : frames) send(frame);
    return until(with(udp("10.3.0.2"), 50, 'z'));
  }
  // Sends `last`; what came before it did.
  [[nodiscard]] std::vector<Frame> until(const Frame& last) const {
    send(last);
    std::vector<Frame> seen;
    pollfd ready{observer_.get(), POLLIN, 0};
    while (::poll(&ready, 1, 10'000) == 1) {
      Bytes buffer(65536);
      sockaddr_ll from{};
      socklen_t length = sizeof(from);
      const ssize_t n =
          ::recvfrom(observer_.get(), buffer.data(), buffer.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
      if (n < 0 || from.sll_pkttype == PACKET_OUTGOING) continue;
      buffer.resize(static_cast<size_t>(n));
      if (buffer == last) return seen;
      seen.push_back(std::move(buffer));
    }
    ADD_FAILURE() << "the last frame never came";
    return seen;
  }
  void send(const Frame& frame) const {
    Frame out(10);  // struct virtio_net_hdr
    out = out + frame;
    EXPECT_EQ(::write(attachment_.taps.front().get(), out.data(), out.size()), static_cast<ssize_t>(out.size()));
  }
  void attach_anew(Frames frames) {
    attachment_.taps.clear();
    ASSERT_TRUE(detach(pod_.fd(), pod_.path()));
    (void)attached(frames);
  }
  Fd observer_;
};

TEST_F(OwnFramesTest, HonestOnesPass) {
  const std::vector<Frame> honest = {
      arp_frame(1, kOwnMac, ip("10.3.0.2"), ip("10.3.0.1")),
      arp_frame(2, kOwnMac, ip("10.3.0.7"), ip("10.3.0.1")),
      udp("10.3.0.2"),
      udp("10.3.0.7"),
      ipv6("fd03::2", kUdp, Bytes(30, 1)),
      ipv6(kLinkLocal, kUdp, Bytes(30, 2)),
      ipv6("fd03::2", 6, Bytes(30, 3)),
      ipv6("fd03::2", kIcmp, icmp(128)),
      ipv6(kLinkLocal, kIcmp, icmp(133)),
      ipv6(kLinkLocal, kIcmp, neighbour(135, "fd03::1")),
      ipv6("fd03::2", kIcmp, neighbour(136, "fd03::2")),
      ipv6(kLinkLocal, kIcmp, neighbour(136, kLinkLocal)),
      ipv6(kLinkLocal, kHopByHop, extension(kIcmp) + icmp(143)),
      ipv6("fd03::2", kFragment, extension(kUdp, 1) + Bytes(16, 4)),
      ipv6("fd03::2", kFragment, extension(kUdp, 16) + Bytes(16, 5)),
      ipv6("fd03::2", kFragment, extension(kIcmp, 1) + icmp(128)),
      ipv6("fd03::2", kFragment, extension(kIcmp, 16) + icmp(136)),  // not its type: the middle of an echo
  };
  (void)attached(Frames::kOwn);
  EXPECT_THAT(seen_of(honest), ElementsAreArray(honest));
}

TEST_F(OwnFramesTest, AGuestAnswersOverBothFamilies) {
  const std::string before = pod_.dump();
  (void)attached(Frames::kOwn);
  expect_guest_answers({"10.3.0.2", "fd03::2"}, "10.3.0.2 fd03::2");
  EXPECT_TRUE(detach(pod_.fd(), pod_.path()));
  EXPECT_EQ(pod_.dump(), before);
}

struct Spoofed {
  const char* name;
  std::vector<Frame> (*frames)();
};
class SpoofedFramesTest : public OwnFramesTest, public testing::WithParamInterface<Spoofed> {};

TEST_P(SpoofedFramesTest, AreSeenByNobody) {
  const std::vector<Frame> frames = GetParam().frames();
  (void)attached(Frames::kAny);
  EXPECT_EQ(seen_of(frames).size(), frames.size()) << "without it each gets out";
  attach_anew(Frames::kOwn);
  EXPECT_THAT(seen_of(frames), IsEmpty());
}
INSTANTIATE_TEST_SUITE_P(
    Each, SpoofedFramesTest,
    testing::Values(Spoofed{"AnothersMac",
                            [] {
                              return std::vector{udp("10.3.0.2", kOtherMac), udp("10.3.0.2", {2, 0, 0, 0, 0, 4}),
                                                 udp("10.3.0.2", {3, 0, 0, 0, 0, 5}),
                                                 ipv6("fd03::2", kUdp, Bytes(30, 0), kOtherMac),
                                                 arp_frame(1, kOtherMac, ip("10.3.0.2"), ip("10.3.0.1"))};
                            }},
                    Spoofed{"AnothersIPv4Address",
                            [] {
                              return std::vector{udp("10.3.0.3"),  udp("10.3.0.1"), udp("0.0.0.0"),
                                                 udp("127.0.0.1"), udp("10.3.0.6"), udp("11.3.0.2")};
                            }},
                    Spoofed{"ArpForAnother",
                            [] {
                              const Frame own = arp_frame(2, kOwnMac, ip("10.3.0.2"), ip("10.3.0.1"));
                              return std::vector{arp_frame(2, kOwnMac, ip("10.3.0.1"), ip("10.3.0.1")),
                                                 arp_frame(1, kOwnMac, ip("10.3.0.9"), ip("10.3.0.1")),
                                                 arp_frame(1, kOwnMac, ip("0.0.0.0"), ip("10.3.0.1")),
                                                 with(own, 27, 6),     // another's MAC in the message
                                                 with(own, 15, 6),     // not Ethernet
                                                 with(own, 16, 0x86),  // not IPv4
                                                 with(own, 18, 8),
                                                 with(own, 19, 16)};
                            }},
                    Spoofed{"AnothersIPv6Address",
                            [] {
                              return std::vector{ipv6("fd03::3", kUdp, Bytes(30, 0)),
                                                 ipv6("fd03::1", kUdp, Bytes(30, 0)),
                                                 ipv6("::", kUdp, Bytes(30, 0)),
                                                 ipv6("fd04::2", kUdp, Bytes(30, 0)),
                                                 ipv6("fe80::1", kUdp, Bytes(30, 0)),
                                                 ipv6("fd03:0:0:1::2", kUdp, Bytes(30, 0)),
                                                 ipv6("fe80::1", kIcmp, neighbour(135, "fd03::1"))};
                            }},
                    Spoofed{"NeighbourDiscovery",
                            [] {
                              return std::vector{ipv6("fd03::2", kIcmp, neighbour(136, "fd03::1")),
                                                 ipv6(kLinkLocal, kIcmp, neighbour(136, "fe80::1")),
                                                 ipv6("fd03::3", kIcmp, neighbour(136, "fd03::2")),
                                                 ipv6(kLinkLocal, kIcmp, icmp(134)),
                                                 ipv6(kLinkLocal, kIcmp, icmp(137))};
                            }},
                    Spoofed{"NeighbourDiscoveryBehindOtherHeaders",
                            [] {
                              const Bytes lie = neighbour(136, "fd03::1");
                              return std::vector{
                                  ipv6("fd03::2", kHopByHop, extension(kIcmp) + lie),
                                  ipv6("fd03::2", kHopByHop, extension(kDestination) + extension(kIcmp) + lie),
                                  ipv6("fd03::2", kDestination, extension(kIcmp) + lie),
                                  ipv6("fd03::2", kRouting, extension(kIcmp) + lie),
                                  ipv6("fd03::2", kFragment, extension(kIcmp) + lie),
                                  ipv6("fd03::2", kFragment, extension(kIcmp, 1) + lie),
                                  ipv6("fd03::2", kFragment, extension(kIcmp, 6) + lie),  // reserved bits
                                  ipv6("fd03::2", kFragment, extension(kDestination) + extension(kIcmp) + lie),
                                  ipv6(kLinkLocal, kFragment, extension(kIcmp) + icmp(134))};
                            }},
                    Spoofed{"Vlans",
                            [] {
                              return std::vector{tagged(udp("10.3.0.2"), 1), tagged(udp("10.3.0.2"), 0),
                                                 tagged(tagged(udp("10.3.0.2"), 7), 8),
                                                 tagged(ipv6("fd03::2", kUdp, Bytes(30, 0)), 4095),
                                                 tagged(arp_frame(1, kOwnMac, ip("10.3.0.2"), ip("10.3.0.1")), 1)};
                            }},
                    Spoofed{"OtherProtocolsAndStumps",
                            [] {
                              const Frame arp = arp_frame(1, kOwnMac, ip("10.3.0.2"), ip("10.3.0.1"));
                              const Frame v4 = udp("10.3.0.2");
                              const Frame v6 = ipv6("fd03::2", kIcmp, neighbour(136, "fd03::2"));
                              return std::vector{
                                  with(with(arp, 12, 0x88), 13, 0xcc),  with(with(arp, 12, 0x88), 13, 0x47),
                                  with(with(arp, 12, 0x88), 13, 0xa8),  with(arp, 13, 0x35),
                                  Frame(arp.begin(), arp.begin() + 41), Frame(v4.begin(), v4.begin() + 33),
                                  Frame(v6.begin(), v6.begin() + 53),   Frame(v6.begin(), v6.begin() + 57),
                                  Frame(v6.begin(), v6.begin() + 77)};
                            }}),
    [](const auto& each) { return std::string(each.param.name); });

std::string many(size_t count) {
  return "for i in $(seq 1 " + std::to_string(count) + "); do ip addr add fd55::$i/128 dev eth0 nodad; done";
}

TEST_F(OwnFramesTest, AsManyAddressesAsItComparesWith) {
  constexpr size_t kConfigured = 4;  // of them is the link-local one
  configure(many(kMostOwnAddresses - kConfigured));
  (void)attached(Frames::kOwn);
  const std::vector<Frame> honest = {ipv6("fd55::60", kIcmp, neighbour(136, "fd55::60")), udp("10.3.0.7"),
                                     ipv6("fd03::2", kUdp, Bytes(30, 1))};
  std::vector<Frame> all = honest;
  all.push_back(ipv6("fd55::61", kUdp, Bytes(30, 1)));
  EXPECT_THAT(seen_of(all), ElementsAreArray(honest));
}

TEST_F(OwnFramesTest, MoreAreRefused) {
  configure(many(kMostOwnAddresses));
  const Error refused = refusal(Frames::kOwn);
  EXPECT_TRUE(refused.is(Errc::kNotSupported));
  EXPECT_THAT(refused.message(), AllOf(HasSubstr(pod_.path()), HasSubstr("eth0: 68 addresses"), HasSubstr("64 at most"),
                                       HasSubstr("pool")));
  (void)attached(Frames::kAny);
}

// Somebody who sends under many names costs the host no memory, and the honest frame after them gets out.
TEST_F(OwnFramesTest, AFloodIsSeenByNobody) {
  (void)attached(Frames::kOwn);
  EXPECT_THAT(seen_of(std::vector(20'000, arp_frame(1, kOwnMac, ip("10.3.0.9"), ip("10.3.0.1")))), IsEmpty());
}

}  // namespace
}  // namespace granary::netplumb
