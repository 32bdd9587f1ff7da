// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/guest/wire.h"

namespace {

using granary::wire::bytes_field;
using granary::wire::identity;
using granary::wire::probe;
using granary::wire::varint;
using granary::wire::varint_field;
using testing::HasSubstr;

tiny_span span(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), static_cast<uint32_t>(text.size())};
}

// The message of a reply frame; its length prefix must be right.
std::string message_of(const tiny_reply& reply) {
  EXPECT_GE(reply.size, 4U);
  uint32_t length = 0;
  std::memcpy(&length, reply.bytes, 4);
  EXPECT_EQ(length, reply.size - 4);
  return {reinterpret_cast<const char*>(reply.bytes) + 4, reply.size - 4};
}

std::string answer(const std::string& request, unsigned behaviour = 0) {
  tiny_reply reply{};
  EXPECT_EQ(tiny_answer(span(request), behaviour, &reply), TINY_GO_ON);
  return reply.size == 0 ? "" : message_of(reply);
}

std::string failure(unsigned kind, const std::string& text) {
  return bytes_field(3, varint_field(1, kind) + bytes_field(2, text));
}

const std::string kUuid = "0123456789abcdef";
const std::string kEntropy(32, 'e');

TEST(TinyFrame, ProbeIsAnsweredWithItsNonce) {
  for (const uint64_t nonce : {uint64_t{0}, uint64_t{1}, uint64_t{127}, uint64_t{128}, ~uint64_t{0}}) {
    EXPECT_EQ(answer(probe(nonce)), bytes_field(1, varint_field(1, nonce) + varint_field(2, 1)));
  }
}

TEST(TinyFrame, ProbeWithoutNonceMeansZero) {
  EXPECT_EQ(answer(bytes_field(1, "")), bytes_field(1, varint_field(1, 0) + varint_field(2, 1)));
}

TEST(TinyFrame, IdentityIsAcknowledgedWithUuidAndTime) {
  const uint64_t before_1970 = ~uint64_t{0};  // int64 -1
  EXPECT_EQ(answer(identity(kUuid, kEntropy, before_1970)),
            bytes_field(2, bytes_field(1, kUuid) + varint_field(3, before_1970)));
}

TEST(TinyFrame, IdentityIsRefusedWhenAPartIsMissing) {
  EXPECT_EQ(answer(identity("short", kEntropy, 1)), failure(4, "clone_uuid is not 16 bytes"));
  EXPECT_EQ(answer(identity(kUuid, std::string(31, 'e'), 1)), failure(4, "entropy is less than 32 bytes"));
}

TEST(TinyFrame, UnknownFieldsAreSkipped) {
  const std::string message = varint_field(90, 7) + bytes_field(1, bytes_field(77, "new") + varint_field(1, 5));
  EXPECT_EQ(answer(message), bytes_field(1, varint_field(1, 5) + varint_field(2, 1)));
}

TEST(TinyFrame, LastKindOfAOneofCounts) {
  EXPECT_THAT(answer(bytes_field(3, "") + probe(4)), HasSubstr(varint_field(1, 4)));
}

TEST(TinyFrame, ExecIsRefusedAndItsInputIgnored) {
  EXPECT_EQ(answer(bytes_field(3, bytes_field(1, "/bin/true"))), failure(3, "tiny guest"));
  EXPECT_EQ(answer(bytes_field(4, "stdin")), "");
  EXPECT_EQ(answer(varint_field(5, 1)), "");
  EXPECT_EQ(answer(varint_field(7, 9)), "");
}

TEST(TinyFrame, PowerOffEndsTheMachine) {
  tiny_reply reply{};
  EXPECT_EQ(tiny_answer(span(bytes_field(8, "")), 0, &reply), TINY_POWER_OFF);
  EXPECT_EQ(reply.size, 0U);
}

TEST(TinyFrame, MalformedRequestsAreRefused) {
  const std::string invalid = failure(3, "malformed request");
  EXPECT_EQ(answer(""), invalid);
  EXPECT_EQ(answer(std::string(1, '\0')), invalid);                                   // field number 0
  EXPECT_EQ(answer(std::string(11, '\xff')), invalid);                                // varint without end
  EXPECT_EQ(answer(std::string("\x0a\x7f", 2)), invalid);                             // 127 bytes announced, none there
  EXPECT_EQ(answer(std::string("\x0b\x0c", 2)), invalid);                             // a group
  EXPECT_EQ(answer(std::string("\x0d\x01\x02", 3)), invalid);                         // fixed32 of two bytes
  EXPECT_EQ(answer(std::string("\x08") + std::string(9, '\xff') + "\x02"), invalid);  // 65 bits
  EXPECT_EQ(answer(std::string("\x0a") + std::string(9, '\xff') + "\x01"), invalid);  // 2^64 - 1 bytes announced
  EXPECT_EQ(answer(bytes_field(1, std::string(3, '\xff'))), failure(3, "malformed probe"));
  EXPECT_EQ(answer(bytes_field(2, std::string(3, '\xff'))), failure(3, "malformed identity"));
}

TEST(TinyFrame, EachWayToMisbehave) {
  EXPECT_EQ(answer(probe(1), TINY_MUTE), "");
  EXPECT_EQ(answer(probe(1), TINY_BAD_NONCE), bytes_field(1, varint_field(1, ~uint64_t{1}) + varint_field(2, 1)));
  EXPECT_EQ(answer(identity(kUuid, kEntropy, 1), TINY_NO_IDENTITY), failure(4, "asked to refuse the identity"));
  EXPECT_EQ(answer(identity(kUuid, kEntropy, 1), TINY_MUTE_ID), "");
  EXPECT_THAT(answer(identity(kUuid, kEntropy, 1), TINY_WRONG_ID), HasSubstr("0123456789abcdeg"));
  tiny_reply reply{};
  EXPECT_EQ(tiny_answer(span(probe(1)), TINY_DIE, &reply), TINY_TRIPLE_FAULT);
  EXPECT_EQ(tiny_answer(span(identity(kUuid, kEntropy, 1)), TINY_DIE_ID, &reply), TINY_TRIPLE_FAULT);
}

TEST(TinyFrame, GarbageIsNoProtobufAndALongFrameIsTooLong) {
  tiny_reply reply{};
  tiny_answer(span(probe(1)), TINY_GARBAGE, &reply);
  const std::string garbage = message_of(reply);
  tiny_span rest = span(garbage);
  tiny_field field{};
  EXPECT_EQ(tiny_next_field(&rest, &field), TINY_MALFORMED);
  tiny_answer(span(probe(1)), TINY_LONG_FRAME, &reply);
  EXPECT_EQ(std::memcmp(reply.bytes, "\xff\xff\xff\xff", 4), 0);
}

TEST(TinyFrame, BehaviourIsReadFromTheCommandLine) {
  EXPECT_EQ(tiny_behaviour_of("console=ttyS0"), 0U);
  EXPECT_EQ(tiny_behaviour_of("mute"), static_cast<unsigned>(TINY_MUTE));
  EXPECT_EQ(tiny_behaviour_of("die noready"), static_cast<unsigned>(TINY_DIE | TINY_NOT_READY));
  EXPECT_EQ(tiny_behaviour_of("dieid"), static_cast<unsigned>(TINY_DIE_ID));
  EXPECT_EQ(tiny_behaviour_of("flood"), static_cast<unsigned>(TINY_FLOOD));
  EXPECT_EQ(tiny_behaviour_of("echo"), static_cast<unsigned>(TINY_ECHO));
}

// Whatever comes in, one bounded reply goes out. Each request lies alone in a heap block, so that a sanitizer sees a
// read beyond it.
TEST(TinyFrame, RandomAndMutatedRequestsStayInBounds) {
  std::mt19937 random(7);  // NOLINT(cert-msc51-cpp): the same requests each time
  const std::string seeds[] = {probe(300), identity(kUuid, kEntropy, 5), bytes_field(3, bytes_field(1, "sh")), ""};
  for (int round = 0; round < 20'000; ++round) {
    std::string request = seeds[random() % 4];
    for (unsigned n = random() % 4; n > 0 && !request.empty(); --n)
      request[random() % request.size()] = static_cast<char>(random());
    if (random() % 4 == 0) request.resize(random() % 70, static_cast<char>(random()));
    const std::vector<uint8_t> exact(request.begin(), request.end());
    tiny_reply reply{};
    tiny_answer({exact.data(), static_cast<uint32_t>(exact.size())}, 0, &reply);
    ASSERT_LE(reply.size, static_cast<uint32_t>(TINY_REPLY_BYTES));
    if (reply.size > 0) message_of(reply);
  }
}

}  // namespace
