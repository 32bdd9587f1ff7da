// SPDX-License-Identifier: Apache-2.0
// A guest that sends whatever it likes: another guest, the host and the world see nothing of it.
#include "netplumb/routed_fixture.h"

namespace granary::netplumb {
namespace {

// ip(8) complains of namespaces that others make and remove meanwhile.
constexpr const char* kTables =
    "{ ip neigh show nud permanent; ip -6 neigh show nud permanent; ip addr; ip route; } 2>/dev/null";

using testing::IsEmpty;

const IpAddress kWorld = ip("198.51.100.1");

struct Hostile {
  const char* name;
  uint64_t denied;  // that many of the frames at least come as far as the rules
  std::vector<Frame> (*frames)(const TapGuest& guest, const RoutedNetwork& network);
};

class HostileGuest : public RoutedNetworkTest, public testing::WithParamInterface<Hostile> {};

TEST_P(HostileGuest, HarmsNobody) {
  make({{2, {}}, {3, {}}});
  const TapGuest& guest = *guests_[0];
  const Listener world(world_.fd(), kPort);
  const Listener world_dns(world_.fd(), kDns);
  const Listener host(host_.fd(), kPort);
  const std::string tables = host_.output(kTables);
  for (const Frame& frame : GetParam().frames(guest, network_)) guest.send(frame);
  guests_[1]->send(guests_[1]->udp_to(kWorld, "well-behaved"));
  EXPECT_THAT(world.until("well-behaved"), IsEmpty()) << "the world sees it";
  EXPECT_FALSE(world_dns.receive()) << "the world's resolver sees it";
  EXPECT_FALSE(host.receive()) << "the host sees it";
  EXPECT_FALSE(guests_[1]->receive()) << "the other guest sees it";
  EXPECT_FALSE(guest.receive()) << "it is answered";
  EXPECT_EQ(host_.output(kTables), tables);
  EXPECT_GE(counted(kDeniedSet, 2), GetParam().denied);
  // And it is still as good a guest as before.
  guest.send(guest.udp_to(kWorld, "sorry"));
  EXPECT_THAT(world.until("sorry"), IsEmpty());
}

Frame spoofed(const TapGuest& guest, const char* source, const IpAddress& to = kWorld) {
  Udp udp = guest.udp_to(to, "spoofed");
  udp.source = ip(source);
  return udp_frame(udp);
}

Frame with_mac(const TapGuest& guest, const MacAddress& source) {
  Udp udp = guest.udp_to(kWorld, "another's MAC");
  udp.source_mac = source;
  return udp_frame(udp);
}

// The smallest frame of this type, to everybody.
Frame of_type(const TapGuest&, const RoutedNetwork& network, uint16_t type) {
  Frame frame(64, 0x11);
  std::fill_n(frame.begin(), 6, uint8_t{0xff});
  std::ranges::copy(mac_of(network, 2), frame.begin() + 6);
  frame[12] = static_cast<uint8_t>(type >> 8);
  frame[13] = static_cast<uint8_t>(type);
  return frame;
}

// A router advertisement to all nodes, and a datagram to them (RFC 4861, 4.2).
std::vector<Frame> ipv6(const RoutedNetwork& network) {
  Frame frame(14 + 40 + 16);
  std::ranges::copy(std::array<uint8_t, 6>{0x33, 0x33, 0, 0, 0, 1}, frame.begin());
  std::ranges::copy(mac_of(network, 2), frame.begin() + 6);
  frame[12] = 0x86;
  frame[13] = 0xdd;
  frame[14] = 0x60;
  frame[19] = 16;
  frame[20] = 58;
  frame[21] = 255;
  frame[22] = 0xfe;
  frame[23] = 0x80;
  frame[37] = 1;
  frame[38] = 0xff;
  frame[39] = 0x02;
  frame[53] = 1;
  frame[54] = 134;
  Frame datagram = frame;
  datagram[20] = 17;
  datagram[57] = 53;
  return {frame, datagram};
}

INSTANTIATE_TEST_SUITE_P(
    Each, HostileGuest,
    testing::Values(Hostile{"AnothersAddress", 7,
                            [](const TapGuest& guest, const RoutedNetwork&) {
                              return std::vector{spoofed(guest, "10.213.0.3"),
                                                 spoofed(guest, "198.51.100.1"),
                                                 spoofed(guest, "198.51.100.2"),
                                                 spoofed(guest, "127.0.0.1"),
                                                 spoofed(guest, "0.0.0.0"),
                                                 spoofed(guest, "10.213.0.1"),
                                                 spoofed(guest, "10.213.0.3", ip("198.51.100.2"))};
                            }},
                    Hostile{"AnothersMac", 4,
                            [](const TapGuest& guest, const RoutedNetwork& network) {
                              return std::vector{with_mac(guest, mac_of(network, 3)), with_mac(guest, gateway_mac()),
                                                 with_mac(guest, {0x02, 1, 2, 3, 4, 5}),
                                                 with_mac(guest, {0x03, 0, 0, 0, 0, 1})};
                            }},
                    Hostile{"Arp", 0,
                            [](const TapGuest&, const RoutedNetwork& network) {
                              const MacAddress own = mac_of(network, 2);
                              return std::vector{arp_frame(1, own, address_of(network, 2), gateway_of(network)),
                                                 arp_frame(1, own, address_of(network, 2), ip("198.51.100.2")),
                                                 arp_frame(1, own, address_of(network, 2), address_of(network, 3)),
                                                 arp_frame(2, own, address_of(network, 3), address_of(network, 3)),
                                                 arp_frame(2, own, ip("198.51.100.1"), ip("198.51.100.1")),
                                                 arp_frame(2, own, gateway_of(network), gateway_of(network))};
                            }},
                    Hostile{"Vlans", 0,
                            [](const TapGuest& guest, const RoutedNetwork& network) {
                              const Frame plain = udp_frame(guest.udp_to(kWorld, "tagged"));
                              return std::vector{
                                  tagged(plain, 1), tagged(plain, 4095), tagged(tagged(plain, 7), 8),
                                  tagged(arp_frame(1, mac_of(network, 2), address_of(network, 2), gateway_of(network)),
                                         1)};
                            }},
                    Hostile{"IPv6", 2, [](const TapGuest&, const RoutedNetwork& network) { return ipv6(network); }},
                    Hostile{"UnaskedAnswers", 1,
                            [](const TapGuest& guest, const RoutedNetwork&) {
                              Frame frame = udp_frame(guest.udp_to(kWorld, ""));
                              frame[23] = 1;  // an ICMP echo reply, which no connection of the guest's expects
                              frame[24] = frame[25] = 0;
                              std::fill(frame.begin() + 34, frame.end(), uint8_t{0});
                              frame[36] = frame[37] = 0xff;
                              uint32_t sum = 0;
                              for (size_t at = 14; at < 34; at += 2)
                                sum += static_cast<uint32_t>(frame[at] << 8 | frame[at + 1]);
                              while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
                              frame[24] = static_cast<uint8_t>(~sum >> 8);
                              frame[25] = static_cast<uint8_t>(~sum);
                              return std::vector<Frame>{frame};
                            }},
                    Hostile{"OtherProtocols", 0,
                            [](const TapGuest& guest, const RoutedNetwork& network) {
                              return std::vector{of_type(guest, network, 0x88cc),
                                                 of_type(guest, network, 0x8847),
                                                 of_type(guest, network, 0x8863),
                                                 of_type(guest, network, 0x0026),
                                                 of_type(guest, network, 0x888e),
                                                 Frame(14),
                                                 Frame(1),
                                                 Frame(60000, 0xff)};
                            }},
                    Hostile{"NotToTheWorld", 8,
                            [](const TapGuest& guest, const RoutedNetwork&) {
                              std::vector<Frame> frames;
                              for (const char* to : {"10.213.0.3", "10.213.0.1", "10.213.0.99", "10.213.0.255",
                                                     "255.255.255.255", "224.0.0.1", "127.0.0.1", "192.168.7.2",
                                                     "198.51.100.2", "192.168.7.1", "169.254.169.254", "0.0.0.0"}) {
                                Udp udp = guest.udp_to(ip(to), "where it must not");
                                frames.push_back(udp_frame(udp));
                                udp.destination_mac = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
                                frames.push_back(udp_frame(udp));
                              }
                              return frames;
                            }},
                    Hostile{"Flood", 0,
                            [](const TapGuest&, const RoutedNetwork& network) {
                              const Frame arp =
                                  arp_frame(1, mac_of(network, 2), address_of(network, 3), gateway_of(network));
                              return std::vector(20'000, arp);
                            }}),
    [](const auto& each) { return std::string(each.param.name); });

TEST_F(RoutedNetworkTest, AGiantDatagramIsSegmentedOrDropped) {
  make({{2, {}}, {3, {}}});
  const TapGuest& guest = *guests_[0];
  const Listener world(world_.fd(), kPort);
  const std::string giant(60'000, 'g');
  for (const uint16_t part :
       {uint16_t{1}, uint16_t{8}, uint16_t{1400}, uint16_t{1472}, uint16_t{9000}, uint16_t{65535}}) {
    guest.send(udp_frame(guest.udp_to(kWorld, giant)), part);
    guest.send(udp_frame(guest.udp_to(guests_[1]->address(), giant)), part);
    guest.send(udp_frame(guest.udp_to(ip("192.168.7.1"), giant)), part);
  }
  guests_[1]->send(guests_[1]->udp_to(kWorld, "well-behaved"));
  for (const std::string& text : world.until("well-behaved")) EXPECT_EQ(text.find_first_not_of('g'), std::string::npos);
  EXPECT_FALSE(guests_[1]->receive());
}

}  // namespace
}  // namespace granary::netplumb
