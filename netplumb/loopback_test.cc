// SPDX-License-Identifier: Apache-2.0
// Loopback connections of a namespace's programs, turned round to one port.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>

#include "netplumb/loopback_listener.h"
#include "netplumb/loopback_redirect.h"
#include "netplumb/netns.h"
#include "netplumb/test_netns.h"

namespace granary::netplumb {
namespace {

constexpr uint16_t kPort = 1;

class LoopbackTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!pod_.valid()) GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    ASSERT_EQ(pod_.run("ip link add eth0 type veth peer p; ip link set eth0 up; ip link set p up;"
                       "ip addr add 10.19.0.2/24 dev eth0"),
              0);
  }
  void redirect() {
    const Status done = redirect_loopback(pod_.fd(), pod_.path(), kPort);
    ASSERT_TRUE(done) << done.error().message();
    auto listeners = listen_on_loopback(pod_.fd(), pod_.path(), kPort);
    ASSERT_TRUE(listeners) << listeners.error().message();
    listeners_ = std::move(*listeners);
  }
  // A program of the namespace that dials; not valid() when nobody answers.
  Fd dial(const std::string& address, uint16_t port) const {
    Fd socket;
    const Status done = in_netns(pod_.fd(), [&]() -> Status {
      socket = Fd(::socket(address == "::1" ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_in v4{};
      v4.sin_family = AF_INET;
      v4.sin_port = htons(port);
      v4.sin_addr.s_addr = ::inet_addr(address.c_str());
      sockaddr_in6 v6{};
      v6.sin6_family = AF_INET6;
      v6.sin6_port = htons(port);
      v6.sin6_addr = in6addr_loopback;
      const bool is_v6 = address == "::1";
      if (::connect(socket.get(), is_v6 ? reinterpret_cast<sockaddr*>(&v6) : reinterpret_cast<sockaddr*>(&v4),
                    is_v6 ? sizeof(v6) : sizeof(v4)) != 0) {
        socket.reset();
      }
      return ok();
    });
    EXPECT_TRUE(done);
    return socket;
  }
  // Where the next connection was meant to go.
  LoopbackDestination accept(size_t listener) const {
    pollfd entry{listeners_.at(listener).get(), POLLIN, 0};
    EXPECT_EQ(::poll(&entry, 1, 60'000), 1);
    const Fd accepted(::accept4(listeners_.at(listener).get(), nullptr, nullptr, SOCK_CLOEXEC));
    const auto meant = original_destination(accepted.get());
    EXPECT_TRUE(meant);
    return meant ? *meant : LoopbackDestination{};
  }

  const TestNetns pod_{"loopback"};
  std::vector<Fd> listeners_;
};

TEST_F(LoopbackTest, EveryPortArrivesAndIsTold) {
  redirect();
  for (const uint16_t port : {uint16_t{80}, uint16_t{65535}, kPort}) {
    EXPECT_TRUE(dial("127.0.0.1", port).valid());
    const LoopbackDestination meant = accept(0);
    EXPECT_EQ(meant.port, port);
    EXPECT_FALSE(meant.v6);
  }
  EXPECT_TRUE(dial("127.3.2.1", 80).valid());
  EXPECT_EQ(accept(0).port, 80);
}

TEST_F(LoopbackTest, AndOnV6) {
  redirect();
  if (listeners_.size() < 2) GTEST_SKIP() << "no IPv6 here";
  EXPECT_TRUE(dial("::1", 443).valid());
  const LoopbackDestination meant = accept(1);
  EXPECT_EQ(meant.port, 443);
  EXPECT_TRUE(meant.v6);
}

TEST_F(LoopbackTest, OtherLocalAddressesStayWhatTheyAre) {
  redirect();
  EXPECT_FALSE(dial("10.19.0.2", 80).valid()) << "nobody listens there";
  EXPECT_FALSE(dial("10.19.0.2", kPort).valid());
}

// So the kernel gives them no packet that a card brought in, whatever its addresses are.
TEST_F(LoopbackTest, ListenersAreBoundToLo) {
  redirect();
  for (const Fd& listener : listeners_) {
    std::array<char, 16> name{};
    socklen_t size = name.size();
    ASSERT_EQ(::getsockopt(listener.get(), SOL_SOCKET, SO_BINDTODEVICE, name.data(), &size), 0);
    EXPECT_STREQ(name.data(), "lo");
  }
}

TEST_F(LoopbackTest, ItIsMadeAgainAndTakenAwayOnce) {
  const std::string before = pod_.dump() + pod_.output("nft list ruleset");
  redirect();
  listeners_.clear();
  redirect();
  EXPECT_TRUE(dial("127.0.0.1", 80).valid());
  EXPECT_TRUE(*undo_loopback_redirect(pod_.fd(), pod_.path()));
  EXPECT_FALSE(dial("127.0.0.1", 80).valid());
  EXPECT_FALSE(*undo_loopback_redirect(pod_.fd(), pod_.path()));
  EXPECT_EQ(pod_.dump() + pod_.output("nft list ruleset"), before);
}

TEST_F(LoopbackTest, ASocketThatWasNotRedirectedIsTold) {
  auto listeners = listen_on_loopback(pod_.fd(), pod_.path(), kPort);
  ASSERT_TRUE(listeners);
  EXPECT_TRUE(listen_on_loopback(pod_.fd(), pod_.path(), kPort).error().is_errno(EADDRINUSE));
  const Fd client = dial("127.0.0.1", kPort);
  ASSERT_TRUE(client.valid());
  const Fd accepted(::accept4(listeners->at(0).get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_TRUE(original_destination(accepted.get()).error().is(Errc::kInvalidArgument));
}

}  // namespace
}  // namespace granary::netplumb
