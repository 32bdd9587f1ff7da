// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/vsock.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "tests/guest/layout.h"
#include "tests/guest/wire.h"

namespace {

using granary::wire::bytes_field;
using granary::wire::framed;
using granary::wire::probe;
using granary::wire::varint_field;

static_assert(sizeof(tiny_packet) == 44 && offsetof(tiny_packet, type) == 28 && offsetof(tiny_packet, flags) == 32);

constexpr uint64_t kCid = 3;
constexpr uint32_t kPeerPort = 5000;

struct Sent {
  tiny_packet header;
  std::string payload;
};

class TinyVsock : public testing::Test {
 protected:
  TinyVsock() {
    vsock_->cid = kCid;
    vsock_->output.context = this;
    vsock_->output.room = [](void* self) { return static_cast<TinyVsock*>(self)->room_; };
    vsock_->output.send = [](void* self, const tiny_packet* packet, const uint8_t* payload) {
      auto& test = *static_cast<TinyVsock*>(self);
      if (test.room_ == 0) return false;
      test.sent_.push_back({*packet, std::string(reinterpret_cast<const char*>(payload), packet->len)});
      return true;
    };
  }

  void receive(tiny_packet packet, const std::string& payload = "") {
    tiny_vsock_receive(vsock_.get(), &packet, reinterpret_cast<const uint8_t*>(payload.data()),
                       static_cast<uint32_t>(payload.size()));
  }
  tiny_packet from_host(uint16_t op, uint32_t port = kPeerPort, uint32_t length = 0) {
    return {.src_cid = TINY_VSOCK_HOST_CID,
            .dst_cid = kCid,
            .src_port = port,
            .dst_port = TINY_VSOCK_PORT,
            .len = length,
            .type = TINY_TYPE_STREAM,
            .op = op,
            .flags = 0,
            .buf_alloc = 65536,
            .fwd_cnt = 0};
  }
  void data(const std::string& bytes, uint32_t port = kPeerPort) {
    receive(from_host(TINY_OP_RW, port, static_cast<uint32_t>(bytes.size())), bytes);
  }
  void open(uint32_t port = kPeerPort) {
    receive(from_host(TINY_OP_REQUEST, port));
    expect_op(TINY_OP_RESPONSE);
    sent_.clear();
  }
  void work() { EXPECT_EQ(tiny_vsock_work(vsock_.get()), TINY_GO_ON); }
  // Exactly one packet went out since the last look, with this operation.
  void expect_op(int op) {
    ASSERT_EQ(sent_.size(), 1U);
    EXPECT_EQ(sent_[0].header.op, op);
    EXPECT_EQ(sent_[0].header.dst_cid, static_cast<uint64_t>(TINY_VSOCK_HOST_CID));
    EXPECT_EQ(sent_[0].header.src_cid, vsock_->cid);
    EXPECT_EQ(sent_[0].header.type, TINY_TYPE_STREAM);
  }

  std::unique_ptr<tiny_vsock> vsock_ = std::make_unique<tiny_vsock>();
  std::vector<Sent> sent_;
  uint32_t room_ = 16;
};

std::string ready(uint64_t nonce) { return framed(bytes_field(1, varint_field(1, nonce) + varint_field(2, 1))); }

TEST_F(TinyVsock, AcceptsAndAnswers) {
  receive(from_host(TINY_OP_REQUEST));
  expect_op(TINY_OP_RESPONSE);
  EXPECT_EQ(sent_[0].header.buf_alloc, static_cast<uint32_t>(TINY_RECEIVE_BYTES));
  EXPECT_EQ(sent_[0].header.dst_port, kPeerPort);
  sent_.clear();
  data(framed(probe(9)));
  work();
  expect_op(TINY_OP_RW);
  EXPECT_EQ(sent_[0].payload, ready(9));
  EXPECT_EQ(sent_[0].header.fwd_cnt, framed(probe(9)).size());
}

TEST_F(TinyVsock, ARequestMayComeByteByByte) {
  open();
  for (const char byte : framed(probe(300))) {
    EXPECT_TRUE(sent_.empty());
    data(std::string(1, byte));
    work();
  }
  ASSERT_EQ(sent_.size(), 1U);
  EXPECT_EQ(sent_[0].payload, ready(300));
}

TEST_F(TinyVsock, SeveralRequestsInOnePacket) {
  open();
  data(framed(probe(1)) + framed(probe(2)));
  work();
  work();
  ASSERT_EQ(sent_.size(), 2U);
  EXPECT_EQ(sent_[1].payload, ready(2));
}

TEST_F(TinyVsock, ConnectionsDoNotMix) {
  open(1);
  open(2);
  const std::string first = framed(probe(1));
  data(first.substr(0, 5), 1);
  data(framed(probe(2)), 2);
  work();
  ASSERT_EQ(sent_.size(), 1U);
  EXPECT_EQ(sent_[0].header.dst_port, 2U);
  data(first.substr(5), 1);
  work();
  ASSERT_EQ(sent_.size(), 2U);
  EXPECT_EQ(sent_[1].payload, ready(1));
}

TEST_F(TinyVsock, AFullTableRefuses) {
  for (uint32_t port = 1; port <= TINY_CONNECTIONS; ++port) open(port);
  receive(from_host(TINY_OP_REQUEST, 99));
  expect_op(TINY_OP_RST);
  sent_.clear();
  receive(from_host(TINY_OP_RST, 1));  // a free place again
  EXPECT_TRUE(sent_.empty());
  open(99);
}

TEST_F(TinyVsock, WhatBelongsToNothingIsReset) {
  data("x");
  expect_op(TINY_OP_RST);
  sent_.clear();
  tiny_packet other_port = from_host(TINY_OP_REQUEST);
  other_port.dst_port = 22;
  receive(other_port);
  expect_op(TINY_OP_RST);
  EXPECT_EQ(sent_[0].header.src_port, 22U);
  sent_.clear();
  tiny_packet datagram = from_host(TINY_OP_REQUEST);
  datagram.type = 3;
  receive(datagram);
  expect_op(TINY_OP_RST);
}

TEST_F(TinyVsock, AResetIsNeverAnswered) {
  receive(from_host(TINY_OP_RST));
  EXPECT_TRUE(sent_.empty());
}

TEST_F(TinyVsock, OtherContextsAreIgnored) {
  tiny_packet packet = from_host(TINY_OP_REQUEST);
  packet.dst_cid = 77;
  receive(packet);
  packet = from_host(TINY_OP_REQUEST);
  packet.src_cid = 77;
  receive(packet);
  EXPECT_TRUE(sent_.empty());
}

TEST_F(TinyVsock, BreakingTheRulesClosesTheConnection) {
  const auto closes = [this](auto break_rule) {
    open();
    break_rule();
    expect_op(TINY_OP_RST);
    sent_.clear();
  };
  closes([&] { receive(from_host(TINY_OP_REQUEST)); });
  closes([&] { receive(from_host(TINY_OP_RESPONSE)); });
  closes([&] { receive(from_host(99)); });
  closes([&] { receive(from_host(TINY_OP_RW, kPeerPort, 5), "1234"); });
  closes([&] { data(std::string(TINY_RECEIVE_BYTES + 1, 'x')); });
  closes([&] {
    data(std::string(4, '\xff'));  // a length of 4 GiB - 1
    work();
  });
}

TEST_F(TinyVsock, ShutdownOfBothDirectionsEndsInReset) {
  open();
  tiny_packet packet = from_host(TINY_OP_SHUTDOWN);
  packet.flags = TINY_SHUTDOWN_SEND;
  receive(packet);
  EXPECT_TRUE(sent_.empty());
  packet.flags = TINY_SHUTDOWN_RECEIVE;
  receive(packet);
  expect_op(TINY_OP_RST);
}

TEST_F(TinyVsock, ALongRequestIsSkippedWithCreditAndRefused) {
  open();
  const std::string request = framed(bytes_field(3, std::string(100'000, 'a')));
  uint32_t told = 0;
  for (size_t at = 0; at < request.size();) {
    const size_t chunk = std::min<size_t>({request.size() - at, 1000, TINY_RECEIVE_BYTES - (at - told)});
    ASSERT_GT(chunk, 0U) << "no credit at " << at;
    data(request.substr(at, chunk));
    work();
    at += chunk;
    for (const Sent& packet : sent_) told = packet.header.fwd_cnt;
  }
  ASSERT_FALSE(sent_.empty());
  EXPECT_EQ(sent_.back().header.op, TINY_OP_RW);
  EXPECT_NE(sent_.back().payload.find("request too long"), std::string::npos);
}

TEST_F(TinyVsock, WithoutCreditAnAnswerWaits) {
  tiny_packet request = from_host(TINY_OP_REQUEST);
  request.buf_alloc = 10;
  receive(request);
  sent_.clear();
  tiny_packet packet = from_host(TINY_OP_RW, kPeerPort, static_cast<uint32_t>(framed(probe(1)).size()));
  packet.buf_alloc = 10;
  receive(packet, framed(probe(1)));
  work();
  EXPECT_TRUE(sent_.empty());
  receive(from_host(TINY_OP_CREDIT_UPDATE));
  work();
  expect_op(TINY_OP_RW);
}

TEST_F(TinyVsock, WithoutRoomAnAnswerWaits) {
  open();
  data(framed(probe(1)));
  room_ = 1;
  work();
  EXPECT_TRUE(sent_.empty());
  room_ = 2;
  work();
  expect_op(TINY_OP_RW);
}

TEST_F(TinyVsock, CreditIsToldWhenAsked) {
  open();
  receive(from_host(TINY_OP_CREDIT_REQUEST));
  expect_op(TINY_OP_CREDIT_UPDATE);
}

TEST_F(TinyVsock, ATransportResetForgetsConnections) {
  open();
  tiny_vsock_reset(vsock_.get(), kCid);
  data("x");
  expect_op(TINY_OP_RST);
}

}  // namespace
