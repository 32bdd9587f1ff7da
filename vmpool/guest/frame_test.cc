// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/frame.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "vmpool/base/fd.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::guest {
namespace {

v1::Request probe(uint64_t nonce) {
  v1::Request request;
  request.mutable_probe()->set_nonce(nonce);
  return request;
}

v1::Request stdin_data(size_t size) {
  v1::Request request;
  request.set_stdin_data(std::string(size, 'x'));
  return request;
}

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string prefix(uint32_t size) {
  std::string text;
  for (int i = 0; i < 4; ++i) text += static_cast<char>(size >> (8 * i) & 0xff);
  return text;
}

struct Pair {
  Pair() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    a = Fd(fds[0]);
    b = Fd(fds[1]);
  }
  Fd a;
  Fd b;
};

TEST(EncodeFrame, PutsALittleEndianLengthInFront) {
  const Result<std::string> frame = encode_frame(stdin_data(300));
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->substr(0, 4), prefix(static_cast<uint32_t>(frame->size() - 4)));
}

TEST(EncodeFrame, RefusesWhatIsTooLong) {
  EXPECT_TRUE(encode_frame(stdin_data(kMaxFrameBytes - 16)));
  const Result<std::string> frame = encode_frame(stdin_data(10 * kMaxFrameBytes));
  ASSERT_FALSE(frame);
  EXPECT_TRUE(frame.error().is(Errc::kInvalidArgument));
  EXPECT_NE(frame.error().context().find("10485765"), std::string::npos) << frame.error().context();
}

TEST(FrameReader, TakesFramesApartHoweverTheyArrive) {
  std::string stream;
  for (uint64_t i = 0; i < 50; ++i) stream += *encode_frame(probe(i));
  for (const size_t step : {size_t{1}, size_t{3}, size_t{7}, stream.size()}) {
    FrameReader reader;
    uint64_t expected = 0;
    for (size_t at = 0; at < stream.size(); at += step) {
      reader.feed(bytes_of(std::string_view(stream).substr(at, step)));
      v1::Request request;
      for (;;) {
        const Result<bool> next = reader.next(request);
        ASSERT_TRUE(next);
        if (!*next) break;
        EXPECT_EQ(request.probe().nonce(), expected++);
      }
    }
    EXPECT_EQ(expected, 50U);
    EXPECT_EQ(reader.buffered_bytes(), 0U);
  }
}

TEST(FrameReader, AcceptsTheLargestFrameAndRefusesOneByteMore) {
  FrameReader reader;
  v1::Request request;
  reader.feed(bytes_of(prefix(kMaxFrameBytes)));
  const Result<bool> largest = reader.next(request);
  ASSERT_TRUE(largest);
  EXPECT_FALSE(*largest);

  FrameReader other;
  other.feed(bytes_of(prefix(kMaxFrameBytes + 1)));
  const Result<bool> longer = other.next(request);
  ASSERT_FALSE(longer);
  EXPECT_TRUE(longer.error().is(Errc::kProtocolMalformed));
  EXPECT_NE(longer.error().context().find("1048577"), std::string::npos);
}

TEST(FrameReader, RefusesWhatDoesNotParse) {
  FrameReader reader;
  reader.feed(bytes_of(prefix(3) + "\xff\xff\xff"));
  v1::Request request;
  const Result<bool> next = reader.next(request);
  ASSERT_FALSE(next);
  EXPECT_TRUE(next.error().is(Errc::kProtocolMalformed));
}

TEST(FrameReader, AnEmptyFrameIsAMessageWithoutContent) {
  FrameReader reader;
  reader.feed(bytes_of(prefix(0)));
  v1::Request request = probe(1);
  const Result<bool> next = reader.next(request);
  ASSERT_TRUE(next && *next);
  EXPECT_EQ(request.kind_case(), v1::Request::KIND_NOT_SET);
}

TEST(FrameReader, TellsWouldBlockFromEnd) {
  Pair pair;
  ASSERT_TRUE(set_nonblocking(pair.b.get()));
  FrameReader reader;
  EXPECT_EQ(*reader.read_from(pair.b.get()), FrameReader::Read::kWouldBlock);
  ASSERT_TRUE(send_message(pair.a.get(), probe(3)));
  EXPECT_EQ(*reader.read_from(pair.b.get()), FrameReader::Read::kSome);
  pair.a.reset();
  EXPECT_EQ(*reader.read_from(pair.b.get()), FrameReader::Read::kEnd);
}

TEST(Messages, LargeOnesCrossASmallSocketBuffer) {
  Pair pair;
  ASSERT_TRUE(set_nonblocking(pair.a.get()));
  std::jthread sender([&pair] { EXPECT_TRUE(send_message(pair.a.get(), stdin_data(1'000'000))); });
  FrameReader reader;
  v1::Request request;
  ASSERT_TRUE(receive_message(pair.b.get(), reader, request));
  EXPECT_EQ(request.stdin_data().size(), 1'000'000U);
}

TEST(Messages, SeveralInOneReadAreReceivedOneByOne) {
  Pair pair;
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(send_message(pair.a.get(), probe(i)));
  pair.a.reset();
  FrameReader reader;
  v1::Request request;
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(receive_message(pair.b.get(), reader, request));
    EXPECT_EQ(request.probe().nonce(), i);
  }
  const Status end = receive_message(pair.b.get(), reader, request);
  ASSERT_FALSE(end);
  EXPECT_TRUE(end.error().is(Errc::kPeerGone));
}

TEST(Messages, ReceivingGivesUpAtTheDeadline) {
  Pair pair;
  FrameReader reader;
  v1::Request request;
  const Status received = receive_message(pair.b.get(), reader, request, 0);
  ASSERT_FALSE(received);
  EXPECT_TRUE(received.error().is(Errc::kDeadlineExceeded));
}

TEST(Messages, AStreamThatEndsInAFrameIsMalformed) {
  Pair pair;
  ASSERT_EQ(::write(pair.a.get(), "\5\0\0\0x", 5), 5);
  pair.a.reset();
  FrameReader reader;
  v1::Request request;
  const Status received = receive_message(pair.b.get(), reader, request);
  ASSERT_FALSE(received);
  EXPECT_TRUE(received.error().is(Errc::kProtocolMalformed));
}

TEST(Messages, SendingToAClosedPeerIsPeerGone) {
  Pair pair;
  pair.b.reset();
  const Status sent = send_message(pair.a.get(), probe(1));
  ASSERT_FALSE(sent);
  EXPECT_TRUE(sent.error().is(Errc::kPeerGone));
}

}  // namespace
}  // namespace granary::guest
