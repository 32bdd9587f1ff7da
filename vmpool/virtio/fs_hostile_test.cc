// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/fs_fixture.h"

namespace granary::virtio {
namespace {

// The guest

TEST_F(FsTest, AUniqueUsedTwiceConfusesNobody) {
  attach();
  const Gpa first = request(FUSE_READ, 2);
  const Gpa second = request(FUSE_READ, 2);
  const uint64_t one = receive().unique;
  const uint64_t two = receive().unique;
  EXPECT_NE(one, two);
  reply(two, 0, "second");
  reply(one, 0, "first");
  EXPECT_EQ(driver.text(first + 16, 5), "first");
  EXPECT_EQ(driver.text(second + 16, 6), "second");
}

TEST_F(FsTest, AWrongLengthIsAnError) {
  attach();
  for (const int64_t offset : {-1, 1, -40, 1 << 20}) {
    const Gpa at = request(message(FUSE_LOOKUP, 6, "name", offset));
    ASSERT_TRUE(used());
    EXPECT_EQ(header_at(at).error, -EIO) << offset;
    EXPECT_EQ(header_at(at).unique, 6U);
  }
  request(message(FUSE_FORGET, 6, "12345678", 1), 0, kHigh);
  EXPECT_TRUE(used(kHigh));
  EXPECT_TRUE(server_has_nothing());
  EXPECT_FALSE(driver.needs_reset());
}

TEST_F(FsTest, AMessageBeyondTheLimitIsAnError) {
  attach();
  const auto bytes = static_cast<uint32_t>(Fs::kMaxMessageBytes - sizeof(fuse_in_header) + 1);
  fuse_in_header header{};
  header.len = static_cast<uint32_t>(sizeof(header) + bytes);
  const Gpa at = driver.allocate(16);
  driver.queue(kRequests).add(
      {{driver.place_struct(header), 40, false}, {driver.allocate(bytes), bytes, false}, {at, 16, true}});
  driver.kick(kRequests);
  ASSERT_TRUE(used());
  EXPECT_EQ(header_at(at).error, -EIO);
  EXPECT_TRUE(server_has_nothing());
}

TEST_F(FsTest, ARequestWithoutAHeaderNeedsReset) {
  attach();
  request(message(FUSE_GETATTR, 2).substr(0, 39));
  EXPECT_TRUE(driver.needs_reset());
}

TEST_F(FsTest, ARequestWithoutRoomForAReplyNeedsReset) {
  attach();
  request(FUSE_GETATTR, 2, {}, 15);
  EXPECT_TRUE(driver.needs_reset());
  EXPECT_TRUE(server_has_nothing());
}

TEST_F(FsTest, AShortInterruptNeedsReset) {
  attach();
  request(message(FUSE_INTERRUPT, 2, "1234567"), 16, kHigh);
  EXPECT_TRUE(driver.needs_reset());
}

TEST_F(FsTest, RequestsOnTheOtherQueueAreBoundedToo) {
  driver.start(128);
  attach();
  const std::string bytes = message(FUSE_READ, 2);
  const Gpa at = driver.allocate(16);
  const Segment segments[] = {{driver.place(bytes), 40, false}, {at, 16, true}};
  const auto ask = [&](uint16_t queue) {
    driver.queue(queue).add_indirect(driver.allocate(32), segments);
    driver.kick(queue);
  };
  for (int i = 0; i < 64; ++i) {
    ask(kHigh);
    ask(kRequests);
  }
  EXPECT_EQ(fs->in_flight(), 128U);
  EXPECT_FALSE(used());
  ask(kRequests);
  EXPECT_EQ(used()->length, 16U);
  EXPECT_EQ(header_at(at).error, -EIO);
  EXPECT_FALSE(driver.needs_reset());
}

TEST_F(FsTest, ADriverThatResetsTheDeviceEndsItsServer) {
  driver.start(64);
  attach();
  driver.start(64);
  EXPECT_TRUE(fs->attached()) << "nothing was sent to it";
  request(FUSE_READ, 2);
  driver.start(64);
  EXPECT_FALSE(fs->attached());
  EXPECT_EQ(fs->in_flight(), 0U);
  (void)receive();
  EXPECT_TRUE(server_was_closed());
  attach();
  request(FUSE_READ, 2);
  reply(receive().unique, 0, "again");
  EXPECT_TRUE(used());
}

TEST_F(FsTest, ARingBrokenWhileItWaitedIsToldByAnInterrupt) {
  attach();
  driver.queue(kRequests).set_avail_index(1000);
  driver.take_interrupt();
  send(reply_bytes(4711, 0, {}));  // anything that makes the device look at its rings
  run();
  run();
  EXPECT_TRUE(driver.needs_reset());
  EXPECT_EQ(driver.take_interrupt() & 2, 2U);
}

// The server

TEST_F(FsTest, AReplyLongerThanItsBufferIsAnErrorOfThatRequest) {
  attach();
  const Gpa at = request(FUSE_READ, 2, {}, 20);
  const Gpa other = request(FUSE_READ, 4);
  const uint64_t number = receive().unique;
  const uint64_t next = receive().unique;
  const std::string before = driver.text(at + 16, 5);
  send(reply_bytes(number, 0, "12345") + reply_bytes(next, 0, "fine"));
  run();
  ASSERT_EQ(used()->length, 16U);
  EXPECT_EQ(header_at(at).error, -EIO);
  EXPECT_EQ(driver.text(at + 16, 5), before);
  EXPECT_EQ(driver.text(other + 16, 4), "fine") << "the stream is still in step";
  EXPECT_TRUE(fs->attached());
}

TEST_F(FsTest, MalformedRepliesCloseTheSocket) {
  const auto bad = [](uint64_t number) {
    return std::vector<std::string>{
        reply_bytes(number, 0, {}, -1),                                                   // shorter than a header
        reply_bytes(number, 0, {}, static_cast<int64_t>(Fs::kMaxMessageBytes) - 16 + 1),  // too long
        reply_bytes(number, 5, {}),                                                       // a positive error
        reply_bytes(number, -512, {}),                                                    // no errno
        reply_bytes(number, -EIO, "and data"),                                            // an error is alone
        reply_bytes(number + 2, 0, {}),                                                   // nobody asked
        reply_bytes(number | 1, 0, {}),                                                   // an interrupt
        reply_bytes(0, 0, {}),                                                            // a notification
        reply_bytes(UINT64_MAX, 0, {}),
    };
  };
  for (size_t i = 0; i < bad(0).size(); ++i) {
    attach();
    const Gpa at = request(FUSE_READ, 2);
    send(bad(receive().unique)[i]);
    run();
    ASSERT_TRUE(used()) << i;
    EXPECT_EQ(header_at(at).error, -ENOTCONN) << i;
    EXPECT_FALSE(fs->attached()) << i;
    EXPECT_TRUE(server_was_closed()) << i;
  }
  EXPECT_FALSE(driver.needs_reset());
}

TEST_F(FsTest, TheSameRequestCannotBeAnsweredTwice) {
  attach();
  request(FUSE_READ, 2);
  const uint64_t number = receive().unique;
  send(reply_bytes(number, 0, {}) + reply_bytes(number, 0, {}));
  run();
  EXPECT_TRUE(used());
  EXPECT_FALSE(fs->attached());
}

TEST_F(FsTest, AnAnswerBeforeTheQuestionWasSentIsNone) {
  attach();
  const std::string block(1 << 20, 'x');  // its end stays in the guest
  const Gpa at = driver.allocate(16);
  fuse_in_header header{};
  header.len = static_cast<uint32_t>(sizeof(header) + block.size());
  driver.queue(kRequests).add(
      {{driver.place_struct(header), 40, false}, {driver.place(block), 1 << 20, false}, {at, 16, true}});
  driver.kick(kRequests);
  EXPECT_EQ(fs->in_flight(), 0U);
  fuse_in_header got{};
  ASSERT_EQ(::recv(server.get(), &got, sizeof(got), 0), static_cast<ssize_t>(sizeof(got)));
  reply(got.unique);
  EXPECT_FALSE(fs->attached());
  EXPECT_EQ(header_at(at).error, -ENOTCONN) << "and it is answered all the same";
}

TEST_F(FsTest, AServerThatDiesLeavesNobodyWaiting) {
  attach();
  const Gpa first = request(FUSE_READ, 2);
  const Gpa half = request(FUSE_READ, 4);
  (void)receive();
  const std::string answer = reply_bytes(receive().unique, 0, "a payload");
  send(answer.substr(0, 20));
  run();
  server.reset();
  run();
  for (int i = 0; i < 2; ++i) EXPECT_EQ(used()->length, 16U);
  EXPECT_EQ(header_at(first).error, -ENOTCONN);
  EXPECT_EQ(header_at(half).error, -ENOTCONN);
  const Gpa later = request(FUSE_READ, 6);
  ASSERT_TRUE(used());
  EXPECT_EQ(header_at(later).error, -ENOTCONN);
  EXPECT_FALSE(driver.needs_reset());
  EXPECT_TRUE(fs->quiescent());
}

TEST_F(FsTest, RequestsThatWaitForAFullSocketAreAnsweredWhenTheServerDies) {
  attach();
  const Gpa data = driver.allocate(400'000);
  for (int i = 0; i < 10; ++i) {
    fuse_in_header header{};
    header.len = 400'040;
    driver.queue(kRequests).add(
        {{driver.place_struct(header), 40, false}, {data, 400'000, false}, {driver.allocate(16), 16, true}});
  }
  driver.kick(kRequests);
  EXPECT_FALSE(used());
  server.reset();
  run();
  run();
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(used()) << i;
}

}  // namespace
}  // namespace granary::virtio
