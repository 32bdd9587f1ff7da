// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <optional>

#include "agent/shim/loop_fixture.h"
#include "agent/shim/ttrpc_client.h"
#include "agent/shim/ttrpc_server.h"
#include "containerd/ttrpc.pb.h"

namespace granary::ttrpc {
namespace {

using shim::Rpc;
using ::testing::HasSubstr;

constexpr std::chrono::seconds kLong{20};

class Ttrpc : public shim::LoopTest {
 protected:
  Ttrpc() {
    server_ = *Server::create(*loop_, *listen_unix(path()), [this](Call call, Answer answer) {
      if (call.method == "Echo") return answer(call.payload + call.metadata["who"]);
      if (call.method == "Hang") return waiting_.push_back(std::move(answer));
      if (call.method == "Big") return answer(std::string(kMaxDataBytes, 'x'));
      if (call.method == "Descriptor") return received_.push_back(call.take_fd()), answer(std::string());
      answer(shim::rpc_error(Rpc::kUnimplemented, call.method));
    });
  }
  [[nodiscard]] std::string path() const { return directory_ + "/s"; }

  // A peer that writes what it wants.
  Fd raw_peer() {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path().copy(address.sun_path, sizeof(address.sun_path) - 1);
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return socket;
  }
  void write(const Fd& peer, std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n > 0) bytes.remove_prefix(static_cast<size_t>(n));
      if (n < 0 && errno != EAGAIN) return;
      settle();
    }
  }
  // The next frame that the server sends; nothing: it closed the connection.
  std::optional<Frame> read_frame(const Fd& peer, FrameParser& parser) {
    std::optional<Frame> frame;
    run_until([&] {
      char buffer[65536];
      const ssize_t n = ::read(peer.get(), buffer, sizeof(buffer));
      if (n > 0) parser.feed({buffer, static_cast<size_t>(n)});
      frame = *parser.next();
      return frame || n == 0 || (n < 0 && errno != EAGAIN);
    });
    return frame;
  }
  static std::string request(uint32_t stream, const std::string& method, const std::string& payload = "",
                             int64_t timeout_nano = 0) {
    ::ttrpc::Request request;
    request.set_service("test");
    request.set_method(method);
    request.set_payload(payload);
    request.set_timeout_nano(timeout_nano);
    return *encode(FrameType::kRequest, stream, request.SerializeAsString());
  }
  int32_t code_of_answer(const Fd& peer, FrameParser& parser) {
    const std::optional<Frame> frame = read_frame(peer, parser);
    if (!frame) return -1;
    ::ttrpc::Response response;
    EXPECT_TRUE(response.ParseFromString(frame->data));
    return response.status().code();
  }
  static std::string bytes(std::initializer_list<int> list) {
    std::string text;
    for (const int byte : list) text.push_back(static_cast<char>(byte));
    return text;
  }

  std::vector<Answer> waiting_;
  std::vector<Fd> received_;
  std::unique_ptr<Server> server_;
};

TEST_F(Ttrpc, AnswersACallWithItsMetadata) {
  ::ttrpc::Request request;
  request.set_method("Echo");
  request.set_payload("hello ");
  ::ttrpc::KeyValue& entry = *request.add_metadata();
  entry.set_key("who");
  entry.set_value("world");
  const Fd peer = raw_peer();
  write(peer, *encode(FrameType::kRequest, 1, request.SerializeAsString()));
  FrameParser parser;
  const auto frame = read_frame(peer, parser);
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->stream, 1U);
  EXPECT_EQ(frame->type, 2);
  ::ttrpc::Response response;
  ASSERT_TRUE(response.ParseFromString(frame->data));
  EXPECT_EQ(response.payload(), "hello world");
}

TEST_F(Ttrpc, FrameBytesAreThoseOfTheProtocol) {
  EXPECT_EQ(*encode(FrameType::kRequest, 0x01020305, "ab"), bytes({0, 0, 0, 2, 1, 2, 3, 5, 1, 0, 'a', 'b'}));
}

TEST_F(Ttrpc, CallsAreOpenAtTheSameTime) {
  Client client(*loop_, path());
  std::vector<std::string> done;
  for (const char* name : {"first", "second"}) {
    client.call("test", "Hang", name, kLong,
                [&done, name](const Result<std::string>& r) { done.push_back(name + *r); });
  }
  client.call("test", "Echo", "third", kLong, [&](const Result<std::string>& r) { done.push_back(*r); });
  ASSERT_TRUE(run_until([&] { return waiting_.size() == 2 && done.size() == 1; }));
  EXPECT_EQ(server_->open_calls(), 2U);
  waiting_[1](std::string("!"));
  waiting_[0](std::string("?"));
  ASSERT_TRUE(run_until([&] { return done.size() == 3; }));
  EXPECT_THAT(done, ::testing::ElementsAre("third", "second!", "first?"));
}

TEST_F(Ttrpc, AStatusKeepsItsCodeAndText) {
  Client client(*loop_, path());
  std::optional<Error> error;
  client.call("test", "NoSuch", "", kLong, [&](const Result<std::string>& r) { error = r.error(); });
  ASSERT_TRUE(run_until([&] { return error.has_value(); }));
  EXPECT_EQ(error->code(), shim::make_error_code(Rpc::kUnimplemented));
  EXPECT_EQ(error->context(), "NoSuch");
}

TEST_F(Ttrpc, ATimeoutIsAnsweredWhereItRunsOut) {
  const Fd peer = raw_peer();
  FrameParser parser;
  write(peer, request(1, "Hang", "", 1));
  EXPECT_EQ(code_of_answer(peer, parser), static_cast<int32_t>(Rpc::kDeadlineExceeded));
  EXPECT_EQ(server_->open_calls(), 0U);
  waiting_.at(0)(std::string("too late"));
  write(peer, request(3, "Echo"));
  EXPECT_EQ(read_frame(peer, parser)->stream, 3U);
}

TEST_F(Ttrpc, AClientGivesUpAtItsTimeout) {
  Client client(*loop_, path());
  std::optional<Error> error;
  // The server's timer runs out at about the same moment; either says the same.
  client.call("test", "Hang", "", std::chrono::milliseconds(1),
              [&](const Result<std::string>& r) { error = r.error(); });
  ASSERT_TRUE(run_until([&] { return error.has_value(); }));
  EXPECT_EQ(shim::to_rpc(*error).code, Rpc::kDeadlineExceeded);
}

TEST_F(Ttrpc, WhatIsTooLongIsSkippedAndRefused) {
  const Fd peer = raw_peer();
  FrameParser parser;
  const size_t length = kMaxDataBytes + 1;
  write(peer, bytes({0, 0x40, 0, 1, 0, 0, 0, 1, 1, 0}));
  write(peer, std::string(length, 'x'));
  EXPECT_EQ(code_of_answer(peer, parser), static_cast<int32_t>(Rpc::kResourceExhausted));
  write(peer, request(3, "Echo", "still here"));
  EXPECT_EQ(read_frame(peer, parser)->stream, 3U);
}

TEST_F(Ttrpc, AnAnswerThatIsTooLongBecomesAnError) {
  const Fd peer = raw_peer();
  FrameParser parser;
  write(peer, request(1, "Big"));
  EXPECT_EQ(code_of_answer(peer, parser), static_cast<int32_t>(Rpc::kResourceExhausted));
}

TEST_F(Ttrpc, ALengthThatCannotBeEndsTheConnection) {
  const Fd peer = raw_peer();
  FrameParser parser;
  write(peer, bytes({1, 0, 0, 0, 0, 0, 0, 1, 1, 0}));
  EXPECT_FALSE(read_frame(peer, parser));
  EXPECT_TRUE(run_until([&] { return server_->connections() == 0; }));
}

TEST_F(Ttrpc, TruncatedFramesLeaveNothingBehind) {
  {
    const Fd peer = raw_peer();
    write(peer, request(1, "Hang"));
    write(peer, request(3, "Echo").substr(0, 13));
    ASSERT_TRUE(run_until([&] { return waiting_.size() == 1; }));
  }
  EXPECT_TRUE(run_until([&] { return server_->connections() == 0; }));
  waiting_[0](std::string("nobody"));
}

TEST_F(Ttrpc, StreamNumbersAreOddAndGrow) {
  const Fd peer = raw_peer();
  FrameParser parser;
  write(peer, request(2, "Echo"));
  EXPECT_EQ(code_of_answer(peer, parser), static_cast<int32_t>(Rpc::kInvalidArgument));
  write(peer, request(5, "Echo"));
  EXPECT_EQ(code_of_answer(peer, parser), 0);
  write(peer, request(5, "Echo"));
  EXPECT_EQ(code_of_answer(peer, parser), static_cast<int32_t>(Rpc::kInvalidArgument));
}

TEST_F(Ttrpc, UnknownTypesAreIgnoredAndStreamsRefused) {
  const Fd peer = raw_peer();
  FrameParser parser;
  write(peer, bytes({0, 0, 0, 1, 0, 0, 0, 1, 9, 0, 'x'}));
  write(peer, bytes({0, 0, 0, 1, 0, 0, 0, 1, 3, 0, 'x'}));
  EXPECT_EQ(code_of_answer(peer, parser), static_cast<int32_t>(Rpc::kInvalidArgument));
  write(peer, *encode(FrameType::kRequest, 3, "\xff\xff\xff"));
  EXPECT_EQ(code_of_answer(peer, parser), static_cast<int32_t>(Rpc::kInvalidArgument));
  write(peer, request(5, "Echo"));
  EXPECT_EQ(code_of_answer(peer, parser), 0);
}

TEST_F(Ttrpc, OpenCallsAreBounded) {
  const Fd peer = raw_peer();
  FrameParser parser;
  for (uint32_t i = 0; i < Server::kMaxOpenCalls; ++i) write(peer, request(2 * i + 1, "Hang"));
  write(peer, request(2 * Server::kMaxOpenCalls + 1, "Echo"));
  EXPECT_EQ(code_of_answer(peer, parser), static_cast<int32_t>(Rpc::kResourceExhausted));
  EXPECT_EQ(server_->open_calls(), Server::kMaxOpenCalls);
}

TEST_F(Ttrpc, APeerThatDoesNotReadIsNotListenedTo) {
  const Fd peer = raw_peer();
  const std::string big(kMaxDataBytes / 2, 'x');
  size_t sent = 0;
  // Its answers are never read: the server stops reading before its memory fills.
  for (uint32_t stream = 1; stream < 4000; stream += 2) {
    const std::string frame = request(stream, "Echo", big);
    size_t at = 0;
    int stuck = 0;
    while (at < frame.size() && stuck < 3) {
      const ssize_t n = ::send(peer.get(), frame.data() + at, frame.size() - at, MSG_NOSIGNAL);
      stuck = n > 0 ? 0 : stuck + 1;
      if (n > 0) at += static_cast<size_t>(n);
      settle();
    }
    sent += at;
    if (at < frame.size()) break;
  }
  EXPECT_LT(sent, Connection::kLimitBytes);
  EXPECT_EQ(server_->connections(), 1U);
}

TEST_F(Ttrpc, ADescriptorGoesWithARequest) {
  Client client(*loop_, path());
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  const Fd reader(pipe[0]);
  const Fd writer(pipe[1]);
  bool done = false;
  client.call(
      "test", "Descriptor", "", kLong, [&](const Result<std::string>& r) { done = bool(r); }, writer.get());
  ASSERT_TRUE(run_until([&] { return done; }));
  ASSERT_EQ(::write(received_.at(0).get(), "x", 1), 1);
  char byte = 0;
  EXPECT_EQ(::read(reader.get(), &byte, 1), 1);
}

TEST_F(Ttrpc, AClientFindsAServerThatCameBack) {
  Client client(*loop_, path());
  std::vector<Result<std::string>> results;
  const auto keep = [&](Result<std::string> r) { results.push_back(std::move(r)); };
  client.call("test", "Hang", "", kLong, keep);
  ASSERT_TRUE(run_until([&] { return waiting_.size() == 1; }));
  server_.reset();
  ::unlink(path().c_str());
  ASSERT_TRUE(run_until([&] { return results.size() == 1; }));
  EXPECT_TRUE(results[0].error().is(Errc::kPeerGone));
  client.call("test", "Echo", "", kLong, keep);
  ASSERT_TRUE(run_until([&] { return results.size() == 2; }));
  EXPECT_TRUE(results[1].error().is(Errc::kPeerGone));
  server_ = *Server::create(*loop_, *listen_unix(path()),
                            [](const Call&, const Answer& answer) { answer(std::string("back")); });
  client.call("test", "Echo", "", kLong, keep);
  ASSERT_TRUE(run_until([&] { return results.size() == 3; }));
  EXPECT_EQ(*results[2], "back");
}

TEST(TtrpcListen, SaysWhatIsWrongWithAPath) {
  const auto result = listen_unix("/tmp/" + std::string(120, 'x'));
  ASSERT_FALSE(result);
  EXPECT_TRUE(result.error().is(Errc::kInvalidArgument));
  EXPECT_THAT(result.error().message(), HasSubstr("at most 107"));
}

}  // namespace
}  // namespace granary::ttrpc
