// SPDX-License-Identifier: Apache-2.0
// What a server answers to requests in any order, to garbage and to clients that vanish; and its bounds under load.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "vmpool/guest/init/server_fixture.h"

namespace granary::guest {
namespace {

using testing::HasSubstr;

class ConversationTest : public ServerTest {};

TEST_F(ConversationTest, EveryProbeIsAnsweredWithItsNonce) {
  Conversation conversation = connect();
  for (uint64_t nonce : {uint64_t{1}, uint64_t{0}, ~uint64_t{0}}) {
    const v1::Reply reply = conversation.ask(probe_request(nonce));
    EXPECT_EQ(reply.ready().nonce(), nonce);
    EXPECT_EQ(reply.ready().protocol(), 1U);
  }
}

TEST_F(ConversationTest, NothingRunsBeforeTheIdentity) {
  EXPECT_EQ(run(exec_request({"true"})).failure->kind(), v1::Failure::IDENTITY);
  Conversation conversation = connect();
  v1::Request bad = identity_request();
  bad.mutable_identity()->clear_entropy();
  EXPECT_EQ(conversation.ask(bad).failure().kind(), v1::Failure::INVALID);
  EXPECT_EQ(run(exec_request({"true"})).failure->kind(), v1::Failure::IDENTITY);
  EXPECT_TRUE(conversation.ask(identity_request()).has_identity_applied());
  EXPECT_EQ(run(exec_request({"true"})).exited->status(), 0);
}

class FailedIdentityTest : public ServerTest {
 protected:
  FailedIdentityTest() : ServerTest("loopback") {}
};

TEST_F(FailedIdentityTest, KeepsExecRefused) {
  Conversation conversation = connect();
  const v1::Reply reply = conversation.ask(identity_request());
  EXPECT_EQ(reply.failure().kind(), v1::Failure::IDENTITY);
  EXPECT_THAT(reply.failure().message(), HasSubstr("loopback"));
  EXPECT_EQ(run(exec_request({"true"})).failure->kind(), v1::Failure::IDENTITY);
}

TEST_F(ConversationTest, RequestsOutOfPlaceAreRefusedAndTheConversationGoesOn) {
  identify();
  Conversation conversation = connect();
  v1::Request input;
  input.set_stdin_data("x");
  EXPECT_EQ(conversation.ask(input).failure().kind(), v1::Failure::INVALID);
  EXPECT_EQ(conversation.ask(v1::Request()).failure().kind(), v1::Failure::INVALID);
  EXPECT_TRUE(conversation.ask(exec_request({"sleep", "600"})).has_started());
  EXPECT_EQ(conversation.ask(exec_request({"true"})).failure().kind(), v1::Failure::INVALID);
  EXPECT_EQ(conversation.ask(probe_request(5)).ready().nonce(), 5U);
  v1::Request signal;
  signal.set_signal(4711);
  EXPECT_THAT(conversation.ask(signal).failure().message(), HasSubstr("4711"));
  conversation.send_signal(SIGKILL);
  EXPECT_TRUE(conversation.receive().has_exited());
}

TEST_F(ConversationTest, MalformedFramesAreAnsweredAndEndTheConversation) {
  for (const std::string& garbage : {std::string("\x01\x00\x10\x00", 4), std::string("\xff\xff\xff\xff\xff", 5),
                                     std::string("\x02\x00\x00\x00\xff\xff", 6)}) {
    Conversation conversation = connect();
    ASSERT_EQ(::write(conversation.fd(), garbage.data(), garbage.size()), static_cast<ssize_t>(garbage.size()));
    EXPECT_EQ(conversation.receive().failure().kind(), v1::Failure::INVALID);
    EXPECT_TRUE(conversation.at_end());
  }
  EXPECT_EQ(connect().ask(probe_request(1)).ready().nonce(), 1U) << "the server goes on";
}

TEST_F(ConversationTest, AMalformedFrameKillsTheConversationsProcess) {
  identify();
  Conversation conversation = connect();
  const ProcessEnd process(conversation.ask(exec_request({"sleep", "600"})).started().pid());
  ASSERT_EQ(::write(conversation.fd(), "\xff\xff\xff\xff", 4), 4);
  EXPECT_TRUE(process.await());
}

TEST_F(ConversationTest, AClientThatVanishesTakesItsWholeSessionWithIt) {
  identify();
  Conversation conversation = connect();
  // The shell ignores the hang-up, and so does its child, which has a process group of its own.
  conversation.send(exec_request({"sh", "-c", "trap '' HUP; set -m; sleep 600 & echo $!; exec yes >/dev/null"}));
  conversation.expect_output("\n");
  const ProcessEnd background(std::stoi(conversation.output()));
  const ProcessEnd leader(conversation.pid());
  conversation.hang_up();
  EXPECT_TRUE(leader.await());
  EXPECT_TRUE(background.await());
}

TEST_F(ConversationTest, AClientThatVanishesInTheMiddleOfItsOutputKillsTheProcess) {
  identify();
  Conversation conversation = connect();
  const ProcessEnd process(conversation.ask(exec_request({"yes"})).started().pid());
  EXPECT_TRUE(conversation.receive().has_stdout_data());
  conversation.hang_up();
  EXPECT_TRUE(process.await());
}

TEST_F(ConversationTest, AClientThatVanishesWithItsInputUnreadKillsTheProcess) {
  identify();
  Conversation conversation = connect();
  v1::Request exec = exec_request({"sleep", "600"});
  exec.mutable_exec()->set_has_stdin(true);
  const ProcessEnd process(conversation.ask(exec).started().pid());
  conversation.send_input(std::string(3 * kDataChunkBytes, 'x'));
  conversation.hang_up();
  EXPECT_TRUE(process.await());
}

TEST_F(ConversationTest, PowerOffIsObeyedThoughTheClientLeavesAtOnce) {
  Conversation conversation = connect();
  v1::Request off;
  off.mutable_power_off();
  conversation.send(off);
  conversation.hang_up();
  EXPECT_EQ(connect().ask(probe_request(1)).ready().nonce(), 1U);
}

TEST_F(ConversationTest, AMegabyteOfArgumentsArrivesAndMoreIsRefused) {
  identify();
  std::vector<std::string> argv = {"sh", "-c", "echo $#; printf %s \"$@\" | wc -c", "sh"};
  for (int i = 0; i < 16; ++i) argv.push_back(std::string(65'000, 'a'));
  const Conversation::Outcome outcome = run(exec_request(argv));
  ASSERT_TRUE(outcome.exited) << outcome.failure->message();
  EXPECT_EQ(outcome.out, "16\n1040000\n");
  // One argument may have 128 KiB at most (execve(2): MAX_ARG_STRLEN).
  const Conversation::Outcome long_one = run(exec_request({"true", std::string(200'000, 'a')}));
  ASSERT_TRUE(long_one.failure);
  EXPECT_EQ(long_one.failure->kind(), v1::Failure::INVALID);
  EXPECT_THAT(long_one.failure->message(), HasSubstr("Argument list too long"));
}

TEST_F(ConversationTest, AHundredMegabytesThroughCatAreTheSame) {
  identify();
  constexpr int kChunks = 1600;
  Conversation conversation = connect();
  v1::Request exec = exec_request({"cat"});
  exec.mutable_exec()->set_has_stdin(true);
  conversation.send(exec);
  const auto chunk = [](int n) {
    std::string text(kDataChunkBytes, '\0');
    for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>((i * 31 + static_cast<size_t>(n) * 7) >> 3);
    return text;
  };
  std::jthread sender([&] {
    for (int n = 0; n < kChunks; ++n) conversation.send_input(chunk(n));
    conversation.close_input();
  });
  std::string pending;
  int received = 0;
  for (;;) {
    const v1::Reply reply = conversation.receive();
    if (reply.has_started()) continue;
    if (!reply.has_stdout_data()) {
      ASSERT_TRUE(reply.has_exited());
      break;
    }
    pending += reply.stdout_data();
    for (; pending.size() >= kDataChunkBytes; ++received) {
      ASSERT_TRUE(pending.starts_with(chunk(received))) << "differs in chunk " << received;
      pending.erase(0, kDataChunkBytes);
    }
  }
  EXPECT_EQ(received, kChunks);
  EXPECT_EQ(pending, "");
  EXPECT_LT(peak_rss_kib(), 64 * 1024);
}

TEST_F(ConversationTest, ClientsThatDoNotReadCostABoundedAmountOfMemory) {
  identify();
  const long before = peak_rss_kib();
  std::vector<Conversation> silent;
  for (int i = 0; i < 20; ++i) {
    silent.push_back(connect());
    silent.back().send(exec_request({"yes"}));
  }
  // One that asks and asks and reads no answer: the server stops reading, so the socket fills.
  silent.push_back(connect());
  Conversation& asking = silent.back();
  std::string probes;
  for (int i = 0; i < 1000; ++i) probes += *encode_frame(probe_request(1));
  ssize_t sent = 0;
  for (int rounds = 0; rounds < 10'000; ++rounds) {
    sent = ::send(asking.fd(), probes.data(), probes.size(), MSG_DONTWAIT);
    if (sent != static_cast<ssize_t>(probes.size())) break;
    (void)connect().ask(probe_request(2));  // so that the server has had its turn
  }
  EXPECT_LT(sent, static_cast<ssize_t>(probes.size())) << "the server reads on";
  // Per conversation: a 64 KiB chunk as a frame, twice while it grows, and little else.
  EXPECT_LT(peak_rss_kib() - before, 21 * 512);
}

TEST_F(ConversationTest, AProcessThatDoesNotReadStopsItsInput) {
  identify();
  Conversation conversation = connect();
  v1::Request exec = exec_request({"sh", "-c", "read go; cat | wc -c"});
  exec.mutable_exec()->set_has_stdin(true);
  conversation.send(exec);
  ASSERT_TRUE(conversation.receive().has_started());
  v1::Request input;
  input.set_stdin_data(std::string(kDataChunkBytes, 'x'));
  const std::string frame = *encode_frame(input);
  // A shell reads a pipe byte by byte, so the line's end lies behind what the pipe and the socket can hold.
  size_t sent = 0;
  while (sent < 64 * frame.size()) {
    const size_t at = sent % frame.size();
    const ssize_t n = ::send(conversation.fd(), frame.data() + at, frame.size() - at, MSG_DONTWAIT);
    if (n < 0) break;
    sent += static_cast<size_t>(n);
    (void)connect().ask(probe_request(2));
  }
  EXPECT_LT(peak_rss_kib(), 32 * 1024);
  conversation.hang_up();
}

TEST_F(ConversationTest, AThousandShortCommandsAtOnce) {
  identify();
  constexpr int kCommands = 1000;
  std::vector<Conversation> all;
  for (int i = 0; i < kCommands; ++i) {
    all.push_back(connect());
    all.back().send(exec_request({"sh", "-c", "echo " + std::to_string(i) + "; exit " + std::to_string(i % 256)}));
  }
  for (int i = 0; i < kCommands; ++i) {
    const Conversation::Outcome outcome = all[static_cast<size_t>(i)].finish();
    ASSERT_TRUE(outcome.exited) << i << ": " << outcome.failure->message();
    EXPECT_EQ(outcome.out, std::to_string(i) + "\n");
    EXPECT_EQ(outcome.exited->status(), i % 256);
  }
}

}  // namespace
}  // namespace granary::guest
