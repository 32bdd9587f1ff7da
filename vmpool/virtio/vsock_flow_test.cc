// SPDX-License-Identifier: Apache-2.0
// Flow control, fairness, limits and hostile packets of the vsock device.
#include <gtest/gtest.h>

#include <random>

#include "vmpool/base/machine_layout.h"
#include "vmpool/virtio/vsock_fixture.h"

namespace granary::virtio {
namespace {

constexpr size_t kBulkBytes = 10 * 1024 * 1024;

std::string random_text(size_t bytes) {
  std::mt19937_64 random(7);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

class VsockFlowTest : public VsockTest {
 protected:
  // Everything the guest receives on one connection, until `bytes` have come.
  std::string receive_bulk(const Stream& stream, size_t bytes, const std::function<void()>& feed) {
    std::string got;
    while (got.size() < bytes) {
      feed();
      must(loop->run_once(0));
      while (const std::optional<Packet> packet = guest->receive()) {
        if (packet->header.op != VIRTIO_VSOCK_OP_RW) continue;
        got += packet->payload;
        guest->fwd_cnt += packet->header.len;
        EXPECT_LE(unacknowledged += packet->header.len, guest->buf_alloc);
        if (unacknowledged * 2 < guest->buf_alloc) continue;
        guest->answer(stream.request, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
        unacknowledged = 0;
      }
    }
    return got;
  }
  uint32_t unacknowledged = 0;
};

TEST_F(VsockFlowTest, BulkToTheGuestArrivesIdentical) {
  guest->buf_alloc = 64 * 1024;
  Stream stream = open_stream(5);
  must(set_nonblocking(stream.host.get()));
  const std::string sent = random_text(kBulkBytes);
  size_t done = 0;
  const std::string got = receive_bulk(stream, sent.size(), [&] {
    const ssize_t n = ::send(stream.host.get(), sent.data() + done, sent.size() - done, MSG_NOSIGNAL);
    if (n > 0) done += static_cast<size_t>(n);
  });
  EXPECT_TRUE(got == sent);
}

TEST_F(VsockFlowTest, BulkToTheHostArrivesIdentical) {
  Stream stream = open_stream(5);
  const std::string sent = random_text(kBulkBytes);
  std::string got;
  size_t done = 0;
  uint32_t credit = kVsockBufferBytes;
  uint32_t host_fwd_cnt = 0;
  while (got.size() < sent.size()) {
    const size_t n =
        std::min<size_t>({sent.size() - done, 60'000, credit - (static_cast<uint32_t>(done) - host_fwd_cnt)});
    if (n > 0) guest->answer(stream.request, VIRTIO_VSOCK_OP_RW, std::string_view(sent).substr(done, n));
    done += n;
    got += host_read(stream.host, 100'000);
    while (const std::optional<Packet> packet = guest->receive()) {
      ASSERT_EQ(packet->header.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
      host_fwd_cnt = packet->header.fwd_cnt;
    }
  }
  EXPECT_TRUE(got == sent);
}

TEST_F(VsockFlowTest, NothingIsSentWithoutCredit) {
  guest->buf_alloc = 10;
  Stream stream = open_stream(5);
  host_write(stream.host, "0123456789abcdef");
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_RW).payload, "0123456789");
  (void)expect_packet(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
  settle();
  EXPECT_FALSE(guest->receive());
  guest->fwd_cnt = 4;
  guest->answer(stream.request, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_RW).payload, "abcd");
  guest->fwd_cnt = 4000;  // more than was ever sent: no credit, no harm
  guest->answer(stream.request, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  (void)expect_packet(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
  settle();
  EXPECT_FALSE(guest->receive());
}

TEST_F(VsockFlowTest, SlowReaderIsBoundedByCredit) {
  Stream stream = open_stream(5);
  const std::string piece(60'000, 'x');
  size_t sent = 0;
  uint32_t fwd_cnt = 0;
  // Fill as far as credit goes; the host reads nothing.
  for (;;) {
    while (const std::optional<Packet> packet = guest->receive()) fwd_cnt = packet->header.fwd_cnt;
    const size_t credit = kVsockBufferBytes - (sent - fwd_cnt);
    if (credit == 0) break;
    const size_t n = std::min(piece.size(), credit);
    guest->answer(stream.request, VIRTIO_VSOCK_OP_RW, std::string_view(piece).substr(0, n));
    sent += n;
    settle();
  }
  EXPECT_EQ(vsock->open_connections(), 1U);
  // When the host reads at last, all of it comes, and credit with it.
  size_t got = 0;
  while (got < sent) got += host_read(stream.host, 100'000).size();
  EXPECT_EQ(got, sent);
  settle();
  const std::optional<Packet> update = guest->receive();
  ASSERT_TRUE(update);
  EXPECT_EQ(update->header.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
}

TEST_F(VsockFlowTest, SendingWithoutCreditIsReset) {
  Stream stream = open_stream(5);
  const std::string piece(64 * 1024, 'x');
  std::optional<Packet> last;
  for (int i = 0; i < 100 && (!last || last->header.op != VIRTIO_VSOCK_OP_RST); ++i) {
    guest->answer(stream.request, VIRTIO_VSOCK_OP_RW, piece);
    while (std::optional<Packet> packet = guest->receive()) last = packet;
  }
  ASSERT_TRUE(last);
  EXPECT_EQ(last->header.op, VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(vsock->open_connections(), 0U);
}

TEST_F(VsockFlowTest, SlowReaderDoesNotHoldUpOthers) {
  guest->buf_alloc = 1000;
  Stream slow = open_stream(5);
  Stream quick = open_stream(6);
  host_write(slow.host, std::string(50'000, 's'));
  settle();
  while (guest->receive()) {
  }
  host_write(quick.host, "through");
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_RW).payload, "through");
}

class VsockFewBuffersTest : public VsockTest {
 protected:
  VsockFewBuffersTest() : VsockTest(4, 4096) {}
};

TEST_F(VsockFewBuffersTest, ConnectionsTakeTurns) {
  guest->set_recycle(false);
  Stream a = open_stream(5);
  Stream b = open_stream(6);
  host_write(a.host, std::string(100'000, 'a'));
  host_write(b.host, std::string(100'000, 'b'));
  settle();
  guest->set_recycle(true);
  std::string order;
  for (int i = 0; i < 8; ++i) order += expect_packet(VIRTIO_VSOCK_OP_RW).payload.front();
  EXPECT_NE(order.find("ab"), std::string::npos) << order;
  EXPECT_NE(order.find("ba"), std::string::npos) << order;
}

TEST_F(VsockFewBuffersTest, WaitsForRxBuffersAndGoesOn) {
  Stream stream = open_stream(5);
  guest->set_recycle(false);
  host_write(stream.host, std::string(100'000, 'x'));
  ::shutdown(stream.host.get(), SHUT_WR);
  settle();
  EXPECT_EQ(machine.driver->queue(0).used_index(), 5) << "one for the request, then the four there are";
  size_t got = 0;
  bool ended = false;
  for (int round = 0; round < 100 && !ended; ++round) {
    while (const std::optional<Packet> packet = guest->receive()) {
      got += packet->payload.size();
      ended = packet->header.op == VIRTIO_VSOCK_OP_SHUTDOWN;
    }
    guest->set_recycle(true);
    settle();
  }
  EXPECT_TRUE(ended);
  EXPECT_EQ(got, 100'000U);
}

TEST_F(VsockFlowTest, HundredConnectionsAtOnce) {
  std::vector<Stream> streams;
  for (uint32_t i = 0; i < 100; ++i) streams.push_back(open_stream(1000 + i));
  EXPECT_EQ(vsock->open_connections(), 100U);
  for (const Stream& stream : streams) host_write(stream.host, "to " + std::to_string(stream.request.dst_port));
  for (size_t answered = 0; answered < streams.size(); ++answered) {
    const Packet packet = expect_packet(VIRTIO_VSOCK_OP_RW);
    EXPECT_EQ(packet.payload, "to " + std::to_string(packet.header.dst_port));
    guest->answer(packet.header, VIRTIO_VSOCK_OP_RW, "from " + std::to_string(packet.header.dst_port));
  }
  for (const Stream& stream : streams) {
    EXPECT_EQ(host_read(stream.host), "from " + std::to_string(stream.request.dst_port));
  }
}

TEST_F(VsockFlowTest, ListenerPausesAtTheLimit) {
  std::vector<Stream> streams;
  for (uint32_t i = 0; i < 128; ++i) streams.push_back(open_stream(i + 1));
  const Fd late = connect_client();
  host_write(late, "CONNECT 9999\n");
  settle();
  EXPECT_EQ(vsock->open_connections(), 128U);
  SocketPair pair = stream_pair();
  const Status refused = vsock->adopt(std::move(pair.first), 1);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().is_errno(EMFILE));
  guest->answer(streams[0].request, VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_REQUEST).header.dst_port, 9999U);
}

TEST_F(VsockFlowTest, GuestInitiatedConnectionsAreRefused) {
  VsockHeader request{};
  request.src_port = 80;  // as answer() swaps: to host port 80, from guest port 4000
  request.dst_port = 4000;
  guest->answer(request, VIRTIO_VSOCK_OP_REQUEST);
  const Packet rst = expect_packet(VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(rst.header.src_port, 80U);
  EXPECT_EQ(rst.header.dst_port, 4000U);
  guest->answer(request, VIRTIO_VSOCK_OP_RST);
  settle();
  EXPECT_FALSE(guest->receive()) << "an RST is never answered";
  EXPECT_TRUE(vsock->quiescent());
}

TEST_F(VsockFlowTest, HostilePacketsResetTheirConnection) {
  for (const uint16_t op : std::initializer_list<uint16_t>{0, 1, 2, 8, 99}) {
    Stream stream = open_stream(5);
    guest->answer(stream.request, op);
    (void)expect_packet(VIRTIO_VSOCK_OP_RST);
    EXPECT_TRUE(host_sees_end(stream.host)) << op;
  }
  Stream stream = open_stream(5);
  VsockHeader lying = guest->reply_to(stream.request, VIRTIO_VSOCK_OP_RW);
  lying.len = 1000;
  guest->send(lying, "short");
  (void)expect_packet(VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(vsock->open_connections(), 0U);
}

TEST_F(VsockFlowTest, MisaddressedAndUnknownPacketsAreHarmless) {
  Stream stream = open_stream(5);
  VsockHeader header = guest->reply_to(stream.request, VIRTIO_VSOCK_OP_RST);
  header.src_cid = 77;
  header.dst_cid = 2;
  guest->send(header);
  header.src_cid = kGuestCid;
  header.dst_cid = 1;
  guest->send(header);
  header.dst_cid = 2;
  header.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
  header.op = VIRTIO_VSOCK_OP_REQUEST;
  guest->send(header);
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_RST).header.type, VIRTIO_VSOCK_TYPE_SEQPACKET);
  EXPECT_EQ(vsock->open_connections(), 1U);
  EXPECT_EQ(vsock->refused_packets(), 3U);
}

TEST_F(VsockFlowTest, RepliesAreBoundedWithoutRxBuffers) {
  guest->set_recycle(false);
  VsockHeader request{};
  FakeQueue& tx = machine.driver->queue(1);
  const uint16_t before = tx.used_index();
  for (uint32_t i = 0; i < 1000 && tx.free_descriptors() > 0; ++i) {
    request.dst_port = i;
    guest->answer(request, VIRTIO_VSOCK_OP_REQUEST);
  }
  // 64 rx buffers were used up and 256 replies wait; nothing more is taken from the tx queue.
  EXPECT_EQ(static_cast<uint16_t>(tx.used_index() - before), 64 + 256);
  size_t replies = 0;
  for (int round = 0; round < 100; ++round) {
    guest->set_recycle(true);
    while (guest->receive()) ++replies;
    settle();
  }
  EXPECT_EQ(replies, 64U + 256U + 128U);
  EXPECT_TRUE(vsock->quiescent());
}

TEST_F(VsockFlowTest, ShortPacketOrTinyRxBufferNeedsReset) {
  FakeDriver& driver = *machine.driver;
  driver.queue(1).add({{driver.allocate(64), 43, false}});
  driver.kick(1);
  EXPECT_TRUE(driver.needs_reset());
  driver.start(8);
  driver.queue(0).add({{driver.allocate(64), 50, true}});
  SocketPair pair = stream_pair();
  must(vsock->adopt(std::move(pair.first), 1));
  driver.kick(0);
  EXPECT_TRUE(driver.needs_reset());
}

class VsockClockTest : public VsockTest {
 protected:
  void connect(uint32_t host_port, uint32_t credit = 64) {
    VsockHeader header{};
    header.src_cid = kGuestCid;
    header.dst_cid = 2;
    header.src_port = 5000;
    header.dst_port = host_port;
    header.type = VIRTIO_VSOCK_TYPE_STREAM;
    header.op = VIRTIO_VSOCK_OP_REQUEST;
    header.buf_alloc = credit;
    guest->send(header);
  }
  static int64_t now_ns() {
    return std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count();
  }
};

TEST_F(VsockClockTest, AGuestThatConnectsIsToldTheTimeAndNothingIsKept) {
  const int64_t before = now_ns();
  connect(granary::machine::kClockVsockPort);
  const Packet response = expect_packet(VIRTIO_VSOCK_OP_RESPONSE);
  EXPECT_EQ(response.header.dst_port, 5000U);
  EXPECT_EQ(response.header.src_port, granary::machine::kClockVsockPort);
  EXPECT_EQ(response.payload, "");
  const Packet time = expect_packet(VIRTIO_VSOCK_OP_RW);
  int64_t told = 0;
  ASSERT_EQ(time.payload.size(), sizeof(told));
  time.payload.copy(reinterpret_cast<char*>(&told), sizeof(told));
  EXPECT_GE(told, before);
  EXPECT_LE(told, now_ns());
  EXPECT_TRUE(vsock->quiescent());
  EXPECT_EQ(vsock->open_connections(), 0U);
  guest->answer(time.header, VIRTIO_VSOCK_OP_SHUTDOWN, "", VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND);
  (void)expect_packet(VIRTIO_VSOCK_OP_RST);
  EXPECT_FALSE(guest->receive());
}

TEST_F(VsockClockTest, WithoutCreditOrAtAnotherPortThereIsAReset) {
  connect(granary::machine::kClockVsockPort, 7);
  (void)expect_packet(VIRTIO_VSOCK_OP_RST);
  connect(granary::machine::kClockVsockPort + 1);
  (void)expect_packet(VIRTIO_VSOCK_OP_RST);
  EXPECT_FALSE(guest->receive());
}

}  // namespace
}  // namespace granary::virtio
