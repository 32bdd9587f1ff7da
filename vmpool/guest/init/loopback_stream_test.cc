// SPDX-License-Identifier: Apache-2.0
// Connections to the guest's own loopback, against a service in this process.
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <thread>

#include "vmpool/guest/init/server_fixture.h"

namespace granary::guest {
namespace {

using testing::HasSubstr;

constexpr int kPatienceMs = 60'000;

class LoopbackStreamTest : public ServerTest {
 protected:
  // Listens on a free port of 127.0.0.1, or of ::1.
  void listen(bool v6 = false) {
    listener_ = Fd(::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in6 any6{};
    any6.sin6_family = AF_INET6;
    any6.sin6_addr = in6addr_loopback;
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const auto* address = v6 ? reinterpret_cast<sockaddr*>(&any6) : reinterpret_cast<sockaddr*>(&any);
    socklen_t size = v6 ? sizeof(any6) : sizeof(any);
    if (::bind(listener_.get(), address, size) != 0) GTEST_SKIP() << "no IPv6 loopback here";
    ASSERT_EQ(::listen(listener_.get(), 8), 0);
    sockaddr_in6 bound{};
    size = sizeof(bound);
    ASSERT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&bound), &size), 0);
    port_ = ntohs(bound.sin6_port);  // it stands at the same place in both
  }
  [[nodiscard]] v1::Request connect_request(bool only_v6 = false) const {
    v1::Request request;
    request.mutable_connect()->set_port(port_);
    request.mutable_connect()->set_only_v6(only_v6);
    return request;
  }
  // A conversation that is connected, and the service's end of it.
  Conversation open() {
    Conversation conversation = connect();
    EXPECT_TRUE(conversation.ask(connect_request()).has_done());
    service_ = Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    return conversation;
  }
  // What the service gets next; empty at the end, nothing after a reset.
  std::optional<std::string> take() const {
    std::array<char, 65536> buffer;
    pollfd entry{service_.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&entry, 1, kPatienceMs), 1);
    const ssize_t n = ::read(service_.get(), buffer.data(), buffer.size());
    if (n < 0) return std::nullopt;
    return std::string(buffer.data(), static_cast<size_t>(n));
  }

  Fd listener_;
  Fd service_;
  uint16_t port_ = 0;
};

TEST_F(LoopbackStreamTest, EachDirectionEndsByItself) {
  identify();
  listen();
  Conversation conversation = open();
  conversation.send_input("question");
  EXPECT_EQ(take(), "question");
  conversation.close_input();
  EXPECT_EQ(take(), "");
  ASSERT_EQ(::write(service_.get(), "answer", 6), 6);
  EXPECT_EQ(conversation.receive().stdout_data(), "answer");
  service_.reset();
  EXPECT_TRUE(conversation.receive().stdout_end());
  EXPECT_TRUE(conversation.at_end());
}

// Each is handled before the next one is looked at, not within it.
TEST_F(LoopbackStreamTest, ThousandsOfTinyPiecesAtOnceAreNoDepth) {
  identify();
  listen();
  Conversation conversation = open();
  constexpr size_t kPieces = 20'000;
  v1::Request piece;
  piece.set_stdin_data("x");
  const std::string frame = *encode_frame(piece);
  std::string frames;
  for (size_t i = 0; i < kPieces; ++i) frames += frame;
  std::jthread writer([&] { EXPECT_TRUE(write_all(conversation.fd(), std::as_bytes(std::span(frames)))); });
  size_t taken = 0;
  while (taken < kPieces) {
    const auto got = take();
    ASSERT_TRUE(got && !got->empty()) << taken;
    taken += got->size();
  }
}

TEST_F(LoopbackStreamTest, TheServiceCanEndFirst) {
  identify();
  listen();
  Conversation conversation = open();
  ::shutdown(service_.get(), SHUT_WR);
  EXPECT_TRUE(conversation.receive().stdout_end());
  conversation.send_input("late");
  EXPECT_EQ(take(), "late");
  conversation.close_input();
  EXPECT_EQ(take(), "");
  EXPECT_TRUE(conversation.at_end());
}

TEST_F(LoopbackStreamTest, NobodyThereIsAFailure) {
  identify();
  listen();
  listener_.reset();
  Conversation conversation = connect();
  const v1::Reply reply = conversation.ask(connect_request());
  EXPECT_THAT(reply.failure().message(), HasSubstr("127.0.0.1:" + std::to_string(port_)));
  EXPECT_THAT(reply.failure().message(), HasSubstr("Connection refused"));
}

TEST_F(LoopbackStreamTest, AServiceOnV6AloneIsFoundAndOneOnV4AloneIsNotWhereV6IsMeant) {
  identify();
  listen(true);
  if (IsSkipped()) return;
  Conversation conversation = open();
  ASSERT_EQ(::write(service_.get(), "six", 3), 3);
  EXPECT_EQ(conversation.receive().stdout_data(), "six");
  listen();
  EXPECT_THAT(connect().ask(connect_request(true)).failure().message(), HasSubstr("[::1]"));
}

TEST_F(LoopbackStreamTest, WhatMakesNoSenseIsRefused) {
  listen();
  EXPECT_EQ(connect().ask(connect_request()).failure().kind(), v1::Failure::IDENTITY);
  identify();
  Conversation conversation = open();
  EXPECT_EQ(conversation.ask(connect_request()).failure().kind(), v1::Failure::INVALID) << "a second one";
  v1::Request signal;
  signal.set_signal(9);
  EXPECT_EQ(conversation.ask(signal).failure().kind(), v1::Failure::INVALID);
  conversation.send_input("it goes on");
  EXPECT_EQ(take(), "it goes on");
  for (const uint32_t port : {0U, 65536U}) {
    v1::Request request;
    request.mutable_connect()->set_port(port);
    EXPECT_EQ(connect().ask(request).failure().kind(), v1::Failure::INVALID) << port;
  }
}

TEST_F(LoopbackStreamTest, AResetIsAFailureAndAHostThatVanishesIsAReset) {
  identify();
  listen();
  Conversation reset = open();
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(service_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  service_.reset();
  EXPECT_TRUE(reset.receive().has_failure());
  EXPECT_TRUE(reset.at_end());
  Conversation vanishing = open();
  vanishing.hang_up();
  EXPECT_EQ(take(), std::nullopt);
}

TEST_F(LoopbackStreamTest, MuchGoesBothWaysWholeAndAtOnce) {
  identify();
  listen();
  Conversation conversation = open();
  constexpr size_t kBytes = 16 << 20;
  std::jthread echo([this] {
    std::array<char, 65536> buffer;
    for (ssize_t n = 1; (n = ::read(service_.get(), buffer.data(), buffer.size())) > 0;) {
      ASSERT_EQ(::send(service_.get(), buffer.data(), static_cast<size_t>(n), 0), n);
    }
    ::shutdown(service_.get(), SHUT_WR);
  });
  std::string all(kBytes, '\0');
  for (size_t i = 0; i < kBytes; ++i) all[i] = static_cast<char>(i * 2654435761U >> 24);
  std::jthread sender([&] {
    for (size_t at = 0; at < kBytes; at += kDataChunkBytes) conversation.send_input(all.substr(at, kDataChunkBytes));
    conversation.close_input();
  });
  std::string got;
  for (v1::Reply reply = conversation.receive(); reply.has_stdout_data(); reply = conversation.receive()) {
    got += reply.stdout_data();
  }
  EXPECT_TRUE(got == all) << got.size();
}

TEST_F(LoopbackStreamTest, ASlowHostAndASlowServiceCostABoundedAmountOfMemory) {
  identify();
  listen();
  const long before = peak_rss_kib();
  Conversation conversation = open();
  const std::string much(1 << 20, 'x');
  size_t flooded = 0;  // by the service, to a host that reads nothing
  for (ssize_t n = 1; flooded < (size_t{64} << 20) && n > 0; flooded += static_cast<size_t>(n)) {
    n = ::send(service_.get(), much.data(), much.size(), MSG_DONTWAIT);
    (void)connect().ask(probe_request(1));  // so that the server has had its turn
  }
  v1::Request input;
  input.set_stdin_data(std::string(kDataChunkBytes, 'x'));
  const std::string frame = *encode_frame(input);
  size_t sent = 0;  // by the host, to a service that reads nothing
  while (sent < (size_t{64} << 20)) {
    const size_t at = sent % frame.size();
    const ssize_t n = ::send(conversation.fd(), frame.data() + at, frame.size() - at, MSG_DONTWAIT);
    if (n < 0) break;
    sent += static_cast<size_t>(n);
    (void)connect().ask(probe_request(2));
  }
  EXPECT_LT(flooded, size_t{64} << 20);
  EXPECT_LT(sent, size_t{64} << 20);
  EXPECT_LT(peak_rss_kib() - before, 4 * 1024);
}

}  // namespace
}  // namespace granary::guest
