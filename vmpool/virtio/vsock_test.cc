// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/vsock.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmpool/base/message_socket.h"
#include "vmpool/virtio/vsock_fixture.h"

namespace granary::virtio {
namespace {

TEST_F(VsockTest, ConfigHoldsTheContextId) {
  EXPECT_EQ(machine.driver->config<uint64_t>(0), kGuestCid);
  EXPECT_EQ(machine.driver->config<uint64_t>(8), 0U);
}

TEST_F(VsockTest, HandshakeThenBytesFlowBothWays) {
  const Fd client = connect_client();
  host_write(client, "CONNECT 1024\nhello");
  const Packet request = expect_packet(VIRTIO_VSOCK_OP_REQUEST);
  EXPECT_EQ(request.header.dst_port, 1024U);
  EXPECT_EQ(request.header.src_cid, 2U);
  EXPECT_EQ(request.header.dst_cid, kGuestCid);
  EXPECT_EQ(request.header.buf_alloc, kVsockBufferBytes);
  EXPECT_EQ(host_read(client), "");
  guest->answer(request.header, VIRTIO_VSOCK_OP_RESPONSE);
  EXPECT_EQ(host_read(client), "OK " + std::to_string(request.header.src_port) + "\n");
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_RW).payload, "hello");
  guest->answer(request.header, VIRTIO_VSOCK_OP_RW, "welcome");
  EXPECT_EQ(host_read(client), "welcome");
  EXPECT_EQ(vsock->open_connections(), 1U);
}

TEST_F(VsockTest, HandshakeLineMayArriveInPieces) {
  const Fd client = connect_client();
  host_write(client, "CONN");
  settle();
  host_write(client, "ECT 7");
  settle();
  EXPECT_FALSE(guest->receive());
  host_write(client, "\n");
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_REQUEST).header.dst_port, 7U);
}

TEST_F(VsockTest, BadHandshakesAreClosed) {
  for (const char* line :
       {"HELLO 1\n", "CONNECT\n", "CONNECT x\n", "CONNECT 1x\n", "CONNECT -1\n", "CONNECT 4294967295\n",
        "CONNECT 4294967296\n", "CONNECT 1 1\n", "\n", "0123456789012345678901234567890123456789"}) {
    const Fd client = connect_client();
    host_write(client, line);
    settle();
    EXPECT_TRUE(host_sees_end(client)) << line;
  }
  Fd vanishing = connect_client();
  host_write(vanishing, "CONNECT 5");
  settle();
  vanishing.reset();
  settle();
  EXPECT_EQ(vsock->open_connections(), 0U);
  EXPECT_FALSE(guest->receive());
}

TEST_F(VsockTest, RefusalClosesTheClient) {
  const Fd client = connect_client();
  host_write(client, "CONNECT 9\n");
  guest->answer(expect_packet(VIRTIO_VSOCK_OP_REQUEST).header, VIRTIO_VSOCK_OP_RST);
  EXPECT_TRUE(host_sees_end(client));
  EXPECT_EQ(vsock->open_connections(), 0U);
  EXPECT_TRUE(vsock->quiescent());
}

TEST_F(VsockTest, GuestThatNeverAnswersTimesOut) {
  const Fd client = connect_client();
  host_write(client, "CONNECT 9\n");
  (void)expect_packet(VIRTIO_VSOCK_OP_REQUEST);
  wait_until([&] { return host_sees_end(client); });
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_RST).header.dst_port, 9U);
  EXPECT_EQ(vsock->open_connections(), 0U);
}

TEST_F(VsockTest, ClientThatNeverSpeaksTimesOut) {
  const Fd client = connect_client();
  wait_until([&] { return host_sees_end(client); });
  EXPECT_EQ(vsock->open_connections(), 0U);
}

TEST_F(VsockTest, AdoptNeedsNoHandshake) {
  Stream stream = open_stream(1024);
  host_write(stream.host, "ping");
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_RW).payload, "ping");
  guest->answer(stream.request, VIRTIO_VSOCK_OP_RW, "pong");
  EXPECT_EQ(host_read(stream.host), "pong");
}

TEST_F(VsockTest, AdoptFailsWithoutADriver) {
  machine.driver->reset();
  SocketPair pair = stream_pair();
  const Status s = vsock->adopt(std::move(pair.first), 1);
  ASSERT_FALSE(s);
  EXPECT_TRUE(s.error().is(Errc::kNotSupported));
}

TEST_F(VsockTest, HostHalfCloseReachesTheGuestAfterTheData) {
  Stream stream = open_stream(1024);
  host_write(stream.host, "last words");
  ::shutdown(stream.host.get(), SHUT_WR);
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_RW).payload, "last words");
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_SHUTDOWN).header.flags, uint32_t{VIRTIO_VSOCK_SHUTDOWN_SEND});
  // The other direction lives on.
  guest->answer(stream.request, VIRTIO_VSOCK_OP_RW, "answer");
  EXPECT_EQ(host_read(stream.host), "answer");
  guest->answer(stream.request, VIRTIO_VSOCK_OP_SHUTDOWN, {}, 3);
  (void)expect_packet(VIRTIO_VSOCK_OP_RST);
  EXPECT_TRUE(host_sees_end(stream.host));
  EXPECT_TRUE(vsock->quiescent());
}

TEST_F(VsockTest, GuestHalfCloseReachesTheHost) {
  Stream stream = open_stream(1024);
  guest->answer(stream.request, VIRTIO_VSOCK_OP_RW, "output");
  guest->answer(stream.request, VIRTIO_VSOCK_OP_SHUTDOWN, {}, VIRTIO_VSOCK_SHUTDOWN_SEND);
  EXPECT_EQ(host_read(stream.host), "output");
  EXPECT_TRUE(host_sees_end(stream.host));
  host_write(stream.host, "still heard");
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_RW).payload, "still heard");
  EXPECT_EQ(vsock->open_connections(), 1U);
}

TEST_F(VsockTest, HostCloseIsACleanShutdown) {
  Stream stream = open_stream(1024);
  host_write(stream.host, "bye");
  stream.host.reset();
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_RW).payload, "bye");
  EXPECT_EQ(expect_packet(VIRTIO_VSOCK_OP_SHUTDOWN).header.flags, 3U);
  EXPECT_EQ(vsock->open_connections(), 1U);
  guest->answer(stream.request, VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(vsock->open_connections(), 0U);
}

TEST_F(VsockTest, HostCloseWithoutTheGuestsRstIsEndedByUs) {
  Stream stream = open_stream(1024);
  stream.host.reset();
  (void)expect_packet(VIRTIO_VSOCK_OP_SHUTDOWN);
  wait_until([&] { return vsock->open_connections() == 0; });
  (void)expect_packet(VIRTIO_VSOCK_OP_RST);
}

TEST_F(VsockTest, HostCloseIsSeenWithoutCredit) {
  guest->buf_alloc = 0;
  Stream stream = open_stream(1024);
  stream.host.reset();
  expect_packet_after(VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
}

TEST_F(VsockTest, GuestResetClosesTheHostAfterItsData) {
  Stream stream = open_stream(1024);
  guest->answer(stream.request, VIRTIO_VSOCK_OP_RW, "data");
  guest->answer(stream.request, VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(host_read(stream.host), "data");
  EXPECT_TRUE(host_sees_end(stream.host));
  EXPECT_TRUE(vsock->quiescent());
}

TEST_F(VsockTest, GuestCloseIsEndOfFileAlsoWithUnreadInput) {
  guest->buf_alloc = 4;
  Stream stream = open_stream(1024);
  host_write(stream.host, "more than the guest takes");
  settle();
  guest->answer(stream.request, VIRTIO_VSOCK_OP_RW, "result");
  guest->answer(stream.request, VIRTIO_VSOCK_OP_SHUTDOWN, {}, 3);
  EXPECT_EQ(host_read(stream.host), "result");
  char byte;
  EXPECT_EQ(::recv(stream.host.get(), &byte, 1, MSG_DONTWAIT), 0);
}

TEST_F(VsockTest, DriverResetClosesEverything) {
  Stream stream = open_stream(1024);
  machine.driver->reset();
  EXPECT_TRUE(host_sees_end(stream.host));
  EXPECT_EQ(vsock->open_connections(), 0U);
}

TEST_F(VsockTest, SnapshotKeepsThePortCounterAndRefusesGarbage) {
  Stream stream = open_stream(1024);
  EXPECT_FALSE(vsock->quiescent());
  guest->answer(stream.request, VIRTIO_VSOCK_OP_RST);
  ASSERT_TRUE(vsock->quiescent());
  const TransportState state = must(machine.transport->save());

  auto other = must(Vsock::create(*loop, kGuestCid, Fd()));
  Vsock* other_vsock = other.get();
  MmioTransport restored(std::move(other), *machine.memory, must(EventFd::create()), must(EventFd::create()));
  must(restored.restore(state));
  EXPECT_EQ(restored.interrupt().status(), machine.transport->interrupt().status());
  // The guest's listener answers through the same rings; no event, no interrupt was needed for that.
  SocketPair pair = stream_pair();
  must(other_vsock->adopt(std::move(pair.first), 1024));
  const std::optional<Packet> request = guest->receive();
  ASSERT_TRUE(request);
  EXPECT_EQ(request->header.op, VIRTIO_VSOCK_OP_REQUEST);
  EXPECT_EQ(request->header.src_port, stream.request.src_port + 1);

  TransportState bad = state;
  bad.device.bytes[0] = std::byte{9};
  MmioTransport refusing(must(Vsock::create(*loop, kGuestCid, Fd())), *machine.memory, must(EventFd::create()),
                         must(EventFd::create()));
  const Status s = refusing.restore(bad);
  ASSERT_FALSE(s);
  EXPECT_TRUE(s.error().is(Errc::kSnapshotCorrupt));
}

}  // namespace
}  // namespace granary::virtio
