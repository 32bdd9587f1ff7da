// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/port_forward.h"

#include <gmock/gmock.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/shim/relay_port.h"
#include "agent/shim/task_fixture.h"
#include "netplumb/loopback_redirect.h"
#include "netplumb/netns.h"
#include "netplumb/test_netns.h"

namespace granary::shim {
namespace {

// A pod's namespace as the agent leaves it, a guest that a test speaks for, and containerd's part, which dials.
class PortForwardTest : public LoopTest {
 protected:
  void SetUp() override {
    if (!pod_.valid()) GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    ASSERT_TRUE(netplumb::redirect_loopback(pod_.fd(), pod_.path(), kRelayPort));
    guest_ = std::make_unique<FakeGuest>(*loop_, directory_ + "/guest");
    guest_->on_request = [this](FakeGuest::Peer& peer, const guest::v1::Request& request) {
      peer_ = &peer;
      if (request.has_connect()) {
        ports_.push_back(request.connect().port());
        if (answers_) say_done(peer);
        return true;
      }
      input_ += request.stdin_data();
      input_ended_ = input_ended_ || request.close_stdin();
      return true;
    };
    auto opened = PortForward::open(*loop_, directory_ + "/guest", pod_.path());
    ASSERT_TRUE(opened) << opened.error().message();
    forward_ = *std::move(opened);
  }
  static void say_done(FakeGuest::Peer& peer) {
    guest::v1::Reply done;
    done.mutable_done();
    FakeGuest::reply(peer, done);
  }
  static void end_output(FakeGuest::Peer& peer) {
    guest::v1::Reply reply;
    reply.set_stdout_end(true);
    FakeGuest::reply(peer, reply);
  }
  // Closes the guest's side of the newest conversation.
  void close_guest() { ::shutdown(peer_->socket.get(), SHUT_RDWR); }

  Fd dial(uint16_t port = 80) {
    Fd client;
    const Status done = netplumb::in_netns(pod_.fd(), [&]() -> Status {
      client = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_in to{};
      to.sin_family = AF_INET;
      to.sin_port = htons(port);
      to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
      return ok();
    });
    EXPECT_TRUE(done);
    EXPECT_TRUE(set_nonblocking(client.get()));
    return client;
  }
  // One that the guest has answered.
  Fd connect() {
    Fd client = dial();
    const size_t before = ports_.size();
    EXPECT_TRUE(run_until([&] { return ports_.size() > before; }));
    return client;
  }
  enum class Left { kOpen, kEnded, kReset };
  // Adds to `got` what is there.
  static Left read_all(const Fd& client, std::string& got) {
    for (;;) {
      std::array<char, 65536> buffer;
      const ssize_t n = ::read(client.get(), buffer.data(), buffer.size());
      if (n == 0) return Left::kEnded;
      if (n < 0) return errno == EAGAIN ? Left::kOpen : Left::kReset;
      got.append(buffer.data(), static_cast<size_t>(n));
    }
  }
  bool is_reset(const Fd& client) {
    std::string ignored;
    Left left = Left::kOpen;
    return run_until([&] { return (left = read_all(client, ignored)) != Left::kOpen; }) && left == Left::kReset;
  }
  static void write(const Fd& client, const std::string& text) {
    EXPECT_EQ(::send(client.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }

  const netplumb::TestNetns pod_{"forward"};
  std::unique_ptr<FakeGuest> guest_;
  std::unique_ptr<PortForward> forward_;
  bool answers_ = true;
  FakeGuest::Peer* peer_ = nullptr;
  std::vector<uint32_t> ports_;
  std::string input_;
  bool input_ended_ = false;
};

TEST_F(PortForwardTest, BytesGoBothWaysAndEachDirectionEndsByItself) {
  const Fd client = connect();
  EXPECT_THAT(ports_, ::testing::ElementsAre(80U));
  write(client, "question");
  ::shutdown(client.get(), SHUT_WR);
  ASSERT_TRUE(run_until([&] { return input_ended_; }));
  EXPECT_EQ(input_, "question");
  FakeGuest::output(*peer_, "answer");
  end_output(*peer_);
  close_guest();
  std::string got;
  Left left = Left::kOpen;
  ASSERT_TRUE(run_until([&] { return (left = read_all(client, got)) != Left::kOpen; }));
  EXPECT_EQ(got, "answer");
  EXPECT_EQ(left, Left::kEnded);
  EXPECT_TRUE(run_until([&] { return forward_->connections() == 0; }));
}

TEST_F(PortForwardTest, TheServiceCanEndFirst) {
  const Fd client = connect();
  end_output(*peer_);
  std::string got;
  ASSERT_TRUE(run_until([&] { return read_all(client, got) == Left::kEnded; }));
  write(client, "late");
  ::shutdown(client.get(), SHUT_WR);
  ASSERT_TRUE(run_until([&] { return input_ended_; }));
  EXPECT_EQ(input_, "late");
  close_guest();
  EXPECT_TRUE(run_until([&] { return forward_->connections() == 0; }));
}

TEST_F(PortForwardTest, WhatTheGuestHasNotTakenWhenBothHaveEndedArrives) {
  const Fd client = connect();
  guest_->ignore(*peer_);
  std::string all;
  for (;;) {  // until nobody takes more
    const std::string piece(65536, 'x');
    const ssize_t n = ::write(client.get(), piece.data(), piece.size());
    if (n < 0) {
      const size_t before = all.size();
      settle();
      pollfd room{.fd = client.get(), .events = POLLOUT, .revents = 0};
      if (::poll(&room, 1, 0) == 0 && before == all.size()) break;
      continue;
    }
    all.append(piece, 0, static_cast<size_t>(n));
  }
  end_output(*peer_);
  std::string got;
  ASSERT_TRUE(run_until([&] { return read_all(client, got) == Left::kEnded; }));
  ::shutdown(client.get(), SHUT_WR);
  settle();
  guest_->listen_to(*peer_);
  ASSERT_TRUE(run_until([&] { return input_ended_; }));
  EXPECT_EQ(input_.size(), all.size());
}

TEST_F(PortForwardTest, ARefusalAndAnEndInTheMiddleAreResets) {
  answers_ = false;
  const Fd refused = connect();
  FakeGuest::fail(*peer_, guest::v1::Failure::OTHER, "connect to 127.0.0.1:80: Connection refused");
  EXPECT_TRUE(is_reset(refused));
  answers_ = true;
  const Fd broken = connect();
  FakeGuest::output(*peer_, "half of it");
  close_guest();
  EXPECT_TRUE(is_reset(broken));
  EXPECT_EQ(forward_->connections(), 0U);
}

TEST_F(PortForwardTest, AGuestThatBreaksTheProtocolIsReset) {
  for (const bool too_long : {false, true}) {
    answers_ = too_long;
    const Fd client = connect();
    FakeGuest::output(*peer_,
                      std::string(too_long ? 2 * guest::kDataChunkBytes : 1, 'x'));  // before it said Done, or too much
    EXPECT_TRUE(is_reset(client));
  }
  answers_ = true;
  const Fd client = connect();
  say_done(*peer_);
  EXPECT_TRUE(is_reset(client));
}

TEST_F(PortForwardTest, ACloneThatIsGoneIsAReset) {
  guest_->die();
  EXPECT_TRUE(is_reset(dial()));
  EXPECT_EQ(forward_->connections(), 0U);
}

TEST_F(PortForwardTest, AClientThatGoesIsToldToTheGuest) {
  Fd client = connect();
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(client.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  client.reset();
  EXPECT_TRUE(run_until([&] { return forward_->connections() == 0; }));
  EXPECT_FALSE(input_ended_) << "half of a stream is not all of it";
}

TEST_F(PortForwardTest, ASlowClientHoldsTheGuestBackAndGetsEveryByte) {
  const Fd client = connect();
  std::string all(size_t{16} << 20, '\0');
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<char>(i * 2654435761U >> 24);
  size_t sent = 0;
  std::string unsent;
  bool stuck = false;
  const auto push = [&] {
    stuck = false;
    while (!stuck && (sent < all.size() || !unsent.empty())) {
      if (unsent.empty()) {
        guest::v1::Reply piece;
        piece.set_stdout_data(all.substr(sent, 60'000));
        sent += piece.stdout_data().size();
        unsent = *guest::encode_frame(piece);
      }
      const ssize_t n = ::send(peer_->socket.get(), unsent.data(), unsent.size(), MSG_NOSIGNAL);
      if (n > 0) unsent.erase(0, static_cast<size_t>(n));
      stuck = n <= 0;
    }
  };
  for (int i = 0; i < 40; ++i) {
    push();
    settle();
  }
  EXPECT_TRUE(stuck);
  EXPECT_LT(sent, size_t{8} << 20);  // what is kept, and the buffers of three sockets
  std::string got;
  ASSERT_TRUE(run_until([&] {
    push();
    read_all(client, got);
    return got.size() == all.size();
  }));
  EXPECT_TRUE(got == all);
}

TEST_F(PortForwardTest, AGuestThatDoesNotReadStopsItsClientAlone) {
  const Fd client = connect();
  FakeGuest::Peer& deaf = *peer_;
  guest_->ignore(deaf);
  size_t sent = 0;
  const std::string much(1 << 20, 'x');
  for (int i = 0; i < 200; ++i) {
    const ssize_t n = ::send(client.get(), much.data(), much.size(), MSG_NOSIGNAL);
    if (n > 0) sent += static_cast<size_t>(n);
    settle();
  }
  EXPECT_LT(sent, size_t{16} << 20);
  const Fd other = connect();
  write(other, "still served");
  EXPECT_TRUE(run_until([&] { return input_ == "still served"; }));
}

TEST_F(PortForwardTest, OneTooManyWaitsUntilAnotherEnds) {
  std::vector<Fd> clients;
  for (size_t i = 0; i < PortForward::kMaxConnections; ++i) clients.push_back(connect());
  const Fd late = dial(81);
  settle();
  EXPECT_EQ(forward_->connections(), PortForward::kMaxConnections);
  EXPECT_EQ(ports_.back(), 80U);
  clients.pop_back();
  ASSERT_TRUE(run_until([&] { return input_ended_; }));
  end_output(*peer_);
  close_guest();
  EXPECT_TRUE(run_until([&] { return ports_.back() == 81U; }));
}

TEST_F(PortForwardTest, NothingListensOnceItIsGone) {
  const Fd client = connect();
  forward_.reset();
  EXPECT_TRUE(is_reset(client));
  EXPECT_EQ(pod_.output("ss -Hltn && echo none"), "none\n");
}

}  // namespace
}  // namespace granary::shim
