// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "agent/shim/task_fixture.h"

namespace granary::shim {
namespace {

using namespace containerd::task::v3;  // NOLINT: the messages under test

class StdioTest : public TaskTest {
 protected:
  // A running container with all three streams.
  void start(bool terminal = false) {
    CreateTaskRequest request = create_request("c1");
    request.set_stdin(make_fifo("in"));
    request.set_stdout(make_fifo("out"));
    request.set_stderr(make_fifo("err"));
    request.set_terminal(terminal);
    reader_ = *open_file(directory_ + "/out", O_RDONLY | O_NONBLOCK);
    ASSERT_TRUE(call("Create", request));
    ASSERT_TRUE(ask<StartRequest>("Start", "c1"));
  }
  // What is in the FIFO now.
  std::string read_all(const Fd& from) {
    std::string all;
    char buffer[65536];
    for (ssize_t n = 1; n > 0;) {
      n = ::read(from.get(), buffer, sizeof(buffer));
      if (n > 0) all.append(buffer, static_cast<size_t>(n));
      ended_ = n == 0;
    }
    return all;
  }
  static std::string pattern(size_t bytes) {
    std::string text(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i * 2654435761U >> 24);
    return text;
  }

  Fd reader_;
  bool ended_ = false;
};

TEST_F(StdioTest, OutputArrivesAndEnds) {
  start();
  FakeGuest::output(*guest_->conversation("c1"), "hello");
  guest_->exit("c1", 0);
  ASSERT_TRUE(ask<WaitRequest>("Wait", "c1"));
  EXPECT_EQ(read_all(reader_), "hello");
  EXPECT_TRUE(ended_);
}

TEST_F(StdioTest, ASlowReaderGetsEveryByteAndHoldsTheGuestBack) {
  start();
  const std::string all = pattern(8 << 20);
  size_t sent = 0;
  bool stuck = false;
  std::string unsent;
  std::string got;
  // The guest's side of the stream, like a real one: it goes on when the socket takes more.
  const auto push = [&] {
    FakeGuest::Peer* peer = guest_->conversation("c1");
    stuck = false;
    while (peer != nullptr && !stuck && (sent < all.size() || !unsent.empty())) {
      if (unsent.empty()) {
        guest::v1::Reply piece;
        piece.set_stdout_data(all.substr(sent, 60'000));
        sent += piece.stdout_data().size();
        unsent = *guest::encode_frame(piece);
      }
      const ssize_t n = ::send(peer->socket.get(), unsent.data(), unsent.size(), MSG_NOSIGNAL);
      if (n > 0) unsent.erase(0, static_cast<size_t>(n));
      stuck = n <= 0;
    }
  };
  for (int i = 0; i < 20; ++i) {
    push();
    settle();
  }
  EXPECT_TRUE(stuck);
  EXPECT_LT(sent, size_t{3} << 20);  // FIFO, what is kept, and the socket's buffer
  ASSERT_TRUE(run_until([&] {
    push();
    got += read_all(reader_);
    return got.size() == all.size();
  }));
  EXPECT_TRUE(got == all);
}

TEST_F(StdioTest, ADeadReaderStopsNeitherExitNorOthers) {
  start();
  reader_.reset();
  FakeGuest::Peer* peer = guest_->conversation("c1");
  for (int i = 0; i < 5; ++i) {
    FakeGuest::output(*peer, std::string(60'000, 'x'));
    settle();
  }
  guest_->exit("c1", 4);
  EXPECT_TRUE(ask<WaitRequest>("Wait", "c1"));
  create_and_start("c2");
  guest_->exit("c2", 0);
  EXPECT_TRUE(ask<WaitRequest>("Wait", "c2"));
}

TEST_F(StdioTest, WhatHasEndedBehindItsOutputIsLetGoByAKill) {
  start();
  FakeGuest::Peer* peer = guest_->conversation("c1");
  for (int i = 0; i < 8; ++i) {
    FakeGuest::output(*peer, std::string(60'000, 'x'));
    settle();
  }
  guest_->exit("c1", 3);
  guest_->on_request = [](FakeGuest::Peer& asking, const guest::v1::Request& request) {
    if (request.has_container_kill()) FakeGuest::fail(asking, guest::v1::Failure::NOT_FOUND, "it has ended");
    return request.has_container_kill();
  };
  KillRequest kill;
  kill.set_id("c1");
  kill.set_signal(9);
  EXPECT_FALSE(call("Kill", kill));
  EXPECT_TRUE(ask<WaitRequest>("Wait", "c1"));
}

TEST_F(StdioTest, AReaderThatStandsStillStopsNeitherTheEndOfWhatIsKilledNorOthers) {
  start();
  FakeGuest::Peer* peer = guest_->conversation("c1");
  for (int i = 0; i < 8; ++i) {  // more than the FIFO has and is kept
    FakeGuest::output(*peer, std::string(60'000, 'x'));
    settle();
  }
  KillRequest kill;
  kill.set_id("c1");
  kill.set_signal(9);
  EXPECT_TRUE(call("Kill", kill));
  guest_->exit("c1", 137);
  EXPECT_TRUE(ask<WaitRequest>("Wait", "c1"));
  create_and_start("c2");
  guest_->exit("c2", 0);
  EXPECT_TRUE(ask<WaitRequest>("Wait", "c2"));
  EXPECT_TRUE(ask<DeleteRequest>("Delete", "c1"));
}

TEST_F(StdioTest, AnEndedCloneIsSeenBehindAFullStream) {
  start();
  FakeGuest::Peer* peer = guest_->conversation("c1");
  for (int i = 0; i < 8; ++i) {
    FakeGuest::output(*peer, std::string(60'000, 'x'));
    settle();
  }
  guest_->die();
  EXPECT_TRUE(ask<WaitRequest>("Wait", "c1"));
}

TEST_F(StdioTest, InputArrivesWholeAndEndsWithCloseIo) {
  start();
  const Fd writer = *open_file(directory_ + "/in", O_WRONLY | O_NONBLOCK);
  const std::string all = pattern(1 << 20);
  size_t written = 0;
  ASSERT_TRUE(run_until([&] {
    const ssize_t n = ::write(writer.get(), all.data() + written, all.size() - written);
    if (n > 0) written += static_cast<size_t>(n);
    return written == all.size();
  }));
  CloseIORequest request;
  request.set_id("c1");
  request.set_stdin(true);
  ASSERT_TRUE(call("CloseIO", request));
  // `writer` is still open: CloseIO is what ends the stream.
  ASSERT_TRUE(run_until([&] { return guest_->conversation("c1")->input_closed; }));
  EXPECT_TRUE(guest_->conversation("c1")->input == all);
}

// A guest that says again what it is told, as cat does.
TEST_F(StdioTest, AGigabyteFromInputToOutputIsTheSame) {
  constexpr size_t kBytes = size_t{1} << 30;
  std::string unsent;
  guest_->on_request = [&](FakeGuest::Peer&, const guest::v1::Request& request) {
    if (!request.has_stdin_data()) return false;
    guest::v1::Reply echo;
    echo.set_stdout_data(request.stdin_data());
    unsent += *guest::encode_frame(echo);
    guest_->requests.clear();
    return true;
  };
  start();
  const Fd writer = *open_file(directory_ + "/in", O_WRONLY | O_NONBLOCK);
  // Its length is prime, so that what is lost, doubled or out of order does not look right.
  const std::string all = pattern(8'388'593);
  const auto at = [&](size_t position) { return std::string_view(all).substr(position % all.size()); };
  size_t written = 0;
  size_t same = 0;
  bool differs = false;
  std::array<char, 65536> buffer;
  const auto turn = [&] {
    const auto piece = at(written).substr(0, std::min(size_t{65536}, kBytes - written));
    if (const ssize_t n = ::write(writer.get(), piece.data(), piece.size()); n > 0) written += static_cast<size_t>(n);
    const ssize_t sent = ::send(guest_->conversation("c1")->socket.get(), unsent.data(), unsent.size(), MSG_NOSIGNAL);
    if (sent > 0) unsent.erase(0, static_cast<size_t>(sent));
    for (ssize_t n = 0; (n = ::read(reader_.get(), buffer.data(), buffer.size())) > 0;) {
      for (std::string_view got(buffer.data(), static_cast<size_t>(n)); !got.empty();) {
        const std::string_view expected = at(same).substr(0, got.size());
        differs = differs || !got.starts_with(expected);
        same += expected.size();
        got.remove_prefix(expected.size());
      }
    }
    return differs;
  };
  for (size_t next = 0; next < kBytes && !differs; next += size_t{16} << 20) {
    ASSERT_TRUE(run_until([&] { return turn() || same >= std::min(next + (size_t{16} << 20), kBytes); })) << same;
  }
  EXPECT_FALSE(differs) << "in the 64 KiB before byte " << same;
  EXPECT_EQ(same, kBytes);
}

TEST_F(StdioTest, InputEndsWithItsLastWriter) {
  start();
  settle();
  EXPECT_FALSE(guest_->conversation("c1")->input_closed);  // nobody has written yet
  {
    const Fd writer = *open_file(directory_ + "/in", O_WRONLY | O_NONBLOCK);
    ASSERT_EQ(::write(writer.get(), "abc", 3), 3);
  }
  ASSERT_TRUE(run_until([&] { return guest_->conversation("c1")->input_closed; }));
  EXPECT_EQ(guest_->conversation("c1")->input, "abc");
}

TEST_F(StdioTest, CloseIoBeforeStartIsKept) {
  CreateTaskRequest create = create_request("c1");
  create.set_stdin(make_fifo("in"));
  ASSERT_TRUE(call("Create", create));
  const Fd writer = *open_file(directory_ + "/in", O_WRONLY | O_NONBLOCK);
  ASSERT_EQ(::write(writer.get(), "abc", 3), 3);
  CloseIORequest request;
  request.set_id("c1");
  request.set_stdin(true);
  ASSERT_TRUE(call("CloseIO", request));
  settle();
  EXPECT_EQ(guest_->conversation("c1")->input, "");
  ASSERT_TRUE(ask<StartRequest>("Start", "c1"));
  ASSERT_TRUE(run_until([&] { return guest_->conversation("c1")->input_closed; }));
  EXPECT_EQ(guest_->conversation("c1")->input, "abc");
}

TEST_F(StdioTest, ATerminalIsResized) {
  start(true);
  ResizePtyRequest request;
  request.set_id("c1");
  request.set_height(24);
  request.set_width(80);
  ASSERT_TRUE(call("ResizePty", request));
  ASSERT_TRUE(run_until([&] { return guest_->requests.back().has_window_size(); }));
  EXPECT_EQ(guest_->requests.back().window_size().rows(), 24U);
  create_and_start("c2");
  request.set_id("c2");
  EXPECT_EQ(code_of(call("ResizePty", request)), Rpc::kFailedPrecondition);
}

}  // namespace
}  // namespace granary::shim
