// SPDX-License-Identifier: Apache-2.0
#pragma once

// For tests: a host with a routed network of guests, and the world behind its uplink, in namespaces of their own.

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "netplumb/guest_frames.h"
#include "netplumb/guest_taps.h"
#include "netplumb/ip_text.h"
#include "netplumb/netns.h"
#include "netplumb/nft.h"
#include "netplumb/policy.h"
#include "netplumb/test_netns.h"

namespace granary::netplumb {

inline constexpr uint16_t kPort = 4000;
inline constexpr uint16_t kDns = 53;

inline IpAddress ip(const char* text) { return *parse_address(text); }

// Who listens in a namespace on every address at a UDP port, and what came there.
class Listener {
 public:
  Listener(int netns, uint16_t port) {
    EXPECT_TRUE(in_netns(netns, [&]() -> Status {
      socket_ = Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      const int room = 4 << 20;
      ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
      sockaddr_in any{};
      any.sin_family = AF_INET;
      any.sin_port = htons(port);
      if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&any), sizeof(any)) == 0) return ok();
      return Error::last_os_error("bind");
    }));
  }
  struct Datagram {
    std::string source;
    std::string text;
    sockaddr_in from{};
  };
  [[nodiscard]] std::optional<Datagram> receive(int wait_ms = 0) const {
    pollfd ready{socket_.get(), POLLIN, 0};
    ::poll(&ready, 1, wait_ms);
    std::array<char, 65536> buffer;
    Datagram got;
    socklen_t length = sizeof(got.from);
    const ssize_t n =
        ::recvfrom(socket_.get(), buffer.data(), buffer.size(), 0, reinterpret_cast<sockaddr*>(&got.from), &length);
    if (n < 0) return std::nullopt;
    char text[INET_ADDRSTRLEN] = "";
    ::inet_ntop(AF_INET, &got.from.sin_addr, text, sizeof(text));
    got.source = text;
    got.text.assign(buffer.data(), static_cast<size_t>(n));
    return got;
  }
  // What came before `last` did, which has to come.
  [[nodiscard]] std::vector<std::string> until(const std::string& last) const {
    std::vector<std::string> texts;
    while (const auto got = receive(10'000)) {
      if (got->text == last) return texts;
      texts.push_back(got->text.substr(0, 40));
    }
    ADD_FAILURE() << last << " never came";
    return texts;
  }
  void answer(const Datagram& to, const std::string& text) const { send(to.from, text); }
  void send(const IpAddress& to, const std::string& text) const {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(kPort);
    address.sin_addr.s_addr = htonl(to_number(to));
    send(address, text);
  }

 private:
  void send(const sockaddr_in& to, const std::string& text) const {
    EXPECT_GE(::sendto(socket_.get(), text.data(), text.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof(to)),
              0);
  }
  Fd socket_;
};

class RoutedNetworkTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!host_.valid() || !world_.valid())
      GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    ASSERT_EQ(host_.run("sysctl -qw net.ipv4.ip_forward=0; ip link add up0 type veth peer w0 netns " + world_.name() +
                        "; ip addr add 198.51.100.2/24 dev up0; ip addr add 192.168.7.2/24 dev up0;"
                        "ip link set up0 up"),
              0);
    ASSERT_EQ(
        world_.run("ip addr add 198.51.100.1/24 dev w0; ip addr add 192.168.7.1/24 dev w0;"
                   "ip addr add 169.254.169.254/32 dev w0; ip link set w0 up; ip route add default via 198.51.100.2"),
        0);
    ASSERT_EQ(host_.run("ip route add default via 198.51.100.1"), 0);
    before_ = dump();
    network_.subnet = *parse_prefix("10.213.0.0/24");
    network_.resolvers = {ip("192.168.7.1")};
  }
  void TearDown() override {
    nft_.reset();
    guests_.clear();
  }
  [[nodiscard]] std::string dump() const {
    return host_.dump() + host_.output("nft list ruleset; cat /proc/sys/net/ipv4/ip_forward");
  }
  void on_host(const std::function<Status()>& action) const {
    const Status done = in_netns(host_.fd(), action);
    EXPECT_TRUE(done) << done.error().message();
  }
  // Everything that a network is, with these guests.
  void make(const Guests& guests, bool keeps_strangers_out = false) {
    std::vector<uint32_t> numbers;
    for (const auto& [guest, allow] : guests) numbers.push_back(guest);
    on_host([&]() -> Status {
      nft_ = GRANARY_TRY(Nft::open());
      GRANARY_TRY(nft_->run(table_text(network_, guests, keeps_strangers_out), "make the table"));
      GRANARY_TRY(set_forwarding(true));
      GRANARY_TRY(add_subnet_route(network_.subnet));
      GRANARY_TRY(make_taps(network_, numbers));
      for (const uint32_t guest : numbers) {
        guests_.push_back(std::make_unique<TapGuest>(network_, guest, GRANARY_TRY(open_tap(guest))));
      }
      return ok();
    });
    ASSERT_EQ(guests_.size(), guests.size());
    // The kernel notices a moment later that somebody has a tap; until then nothing leaves there.
    for (const uint32_t guest : numbers) {
      ASSERT_EQ(host_.run("until [ $(cat /sys/class/net/" + tap_name(guest) + "/operstate) = up ]; do :; done"), 0);
    }
  }
  void take_away() {
    std::vector<uint32_t> numbers;
    for (const auto& guest : guests_) numbers.push_back(guest->number());
    on_host([&]() -> Status {
      GRANARY_TRY(remove_taps(numbers));
      EXPECT_TRUE(GRANARY_TRY(find_taps()).empty());
      GRANARY_TRY(remove_subnet_route(network_.subnet));
      GRANARY_TRY(set_forwarding(false));
      return nft_->run(remove_table_text(), "remove the table");
    });
    guests_.clear();
  }
  [[nodiscard]] uint64_t counted(const char* set, uint32_t guest) const {
    return elements_of(nft_->list(list_set_text(set)).value_or("")).at(tap_name(guest)).packets;
  }

  const TestNetns host_{"host"};
  const TestNetns world_{"world"};
  RoutedNetwork network_;
  std::unique_ptr<Nft> nft_;
  std::vector<std::unique_ptr<TapGuest>> guests_;
  std::string before_;
};

}  // namespace granary::netplumb
