// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include "vmpool/virtio/fs_fixture.h"

namespace granary::virtio {
namespace {

TEST_F(FsTest, ConfigShowsTagAndOneQueue) {
  EXPECT_EQ(driver.read32(8), 26U);
  const auto config = driver.config<FsConfig>(0);
  EXPECT_STREQ(config.tag.data(), "granary");
  EXPECT_EQ(config.num_request_queues, 1U);
}

TEST_F(FsTest, RequestsGoToTheServerAndRepliesComeBack) {
  attach();
  const Gpa at = request(FUSE_GETATTR, 8, "body");
  const fuse_in_header header = receive();
  EXPECT_EQ(header.opcode, static_cast<uint32_t>(FUSE_GETATTR));
  EXPECT_EQ(body, "body");
  EXPECT_EQ(header.unique & 1, 0U);
  EXPECT_EQ(fs->in_flight(), 1U);
  EXPECT_FALSE(used());
  driver.take_interrupt();
  reply(header.unique, 0, "payload");
  const auto done = used();
  ASSERT_TRUE(done);
  EXPECT_EQ(done->length, 16U + 7);
  EXPECT_EQ(header_at(at).unique, 8U) << "the driver's own number";
  EXPECT_EQ(driver.text(at + 16, 7), "payload");
  EXPECT_EQ(driver.take_interrupt(), 1U);
  EXPECT_EQ(fs->in_flight(), 0U);
}

TEST_F(FsTest, ErrorsArePassedOn) {
  attach();
  const Gpa at = request(FUSE_LOOKUP, 8, "x");
  reply(receive().unique, -ENOENT);
  ASSERT_EQ(used()->length, 16U);
  EXPECT_EQ(header_at(at).error, -ENOENT);
}

TEST_F(FsTest, RepliesInAnyOrderFindTheirRequest) {
  attach();
  const Gpa first = request(FUSE_READ, 2);
  const Gpa second = request(FUSE_READ, 4);
  const uint64_t one = receive().unique;
  const uint64_t two = receive().unique;
  reply(two, 0, "second");
  reply(one, 0, "first");
  EXPECT_EQ(driver.text(first + 16, 5), "first");
  EXPECT_EQ(driver.text(second + 16, 6), "second");
}

TEST_F(FsTest, APayloadMayBeSplitOverBuffersAndReads) {
  attach();
  const std::string bytes = message(FUSE_READ, 2);
  const Gpa header = driver.allocate(16), a = driver.allocate(3), b = driver.allocate(5);
  driver.queue(kRequests).add({{driver.place(bytes), 40, false}, {header, 16, true}, {a, 3, true}, {b, 5, true}});
  driver.kick(kRequests);
  const std::string answer = reply_bytes(receive().unique, 0, "12345678");
  for (const char c : answer) {
    EXPECT_FALSE(used());
    send({&c, 1});
    run();
  }
  ASSERT_EQ(used()->length, 24U);
  EXPECT_EQ(driver.text(a, 3) + driver.text(b, 5), "12345678");
}

TEST_F(FsTest, ForgetsNeedNoReply) {
  attach();
  request(message(FUSE_FORGET, 2, "12345678"), 0, kHigh);
  EXPECT_EQ(receive().opcode, static_cast<uint32_t>(FUSE_FORGET));
  EXPECT_EQ(used(kHigh)->length, 0U);
  request(message(FUSE_BATCH_FORGET, 4, "12345678"), 0, kHigh);
  EXPECT_EQ(receive().opcode, static_cast<uint32_t>(FUSE_BATCH_FORGET));
  EXPECT_TRUE(used(kHigh));
  EXPECT_EQ(fs->in_flight(), 0U);
}

TEST_F(FsTest, AnInterruptNamesTheRequestAsTheServerKnowsIt) {
  attach();
  request(FUSE_SETLKW, 2);
  const uint64_t number = receive().unique;
  const fuse_interrupt_in target{.unique = 2};
  request(message(FUSE_INTERRUPT, 3, {reinterpret_cast<const char*>(&target), sizeof(target)}), 16, kHigh);
  EXPECT_TRUE(used(kHigh)) << "its buffer comes back at once";
  const fuse_in_header header = receive();
  EXPECT_EQ(header.opcode, static_cast<uint32_t>(FUSE_INTERRUPT));
  EXPECT_EQ(body, std::string(reinterpret_cast<const char*>(&number), sizeof(number)));
  reply(number, -EINTR);
  request(message(FUSE_INTERRUPT, 3, {reinterpret_cast<const char*>(&target), sizeof(target)}), 16, kHigh);
  EXPECT_TRUE(used(kHigh));
  EXPECT_TRUE(server_has_nothing()) << "what it would interrupt has ended";
}

TEST_F(FsTest, WithoutAServerRequestsEndAtOnce) {
  const Gpa at = request(FUSE_INIT, 2);
  ASSERT_EQ(used()->length, 16U);
  EXPECT_EQ(header_at(at).error, -ENOTCONN);
  EXPECT_EQ(header_at(at).unique, 2U);
  request(message(FUSE_FORGET, 2, "12345678"), 0, kHigh);
  EXPECT_TRUE(used(kHigh));
  EXPECT_FALSE(driver.needs_reset());
}

TEST_F(FsTest, AFullSocketMakesTheDriverWaitAndLosesNothing) {
  attach();
  const std::string block(100'000, 'x');
  const Gpa data = driver.place(block);
  constexpr int kCount = 20;  // 2 MB: more than a unix socket takes
  std::vector<Gpa> replies;
  for (int i = 0; i < kCount; ++i) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + block.size());
    header.unique = 2U + 2U * static_cast<unsigned>(i);
    header.nodeid = static_cast<unsigned>(i);
    replies.push_back(driver.allocate(16));
    driver.queue(kRequests).add({{driver.place_struct(header), 40, false},
                                 {data, static_cast<uint32_t>(block.size()), false},
                                 {replies.back(), 16, true}});
  }
  driver.kick(kRequests);
  EXPECT_LT(fs->in_flight(), static_cast<size_t>(kCount));
  std::string got;
  for (int idle = 0; idle < 100 && got.size() < kCount * (40 + block.size()); ++idle) {
    std::string part(1 << 20, '\0');
    const ssize_t n = ::recv(server.get(), part.data(), part.size(), 0);
    if (n > 0) {
      got.append(part, 0, static_cast<size_t>(n));
      idle = 0;
    }
    run();
  }
  ASSERT_EQ(got.size(), kCount * (40 + block.size()));
  EXPECT_EQ(fs->in_flight(), static_cast<size_t>(kCount));
  for (int i = 0; i < kCount; ++i) {
    fuse_in_header header{};
    std::memcpy(&header, got.data() + static_cast<size_t>(i) * (40 + block.size()), sizeof(header));
    EXPECT_EQ(header.nodeid, static_cast<uint64_t>(i));
    reply(header.unique);
    EXPECT_EQ(header_at(replies[static_cast<size_t>(i)]).unique, 2U + 2U * static_cast<unsigned>(i));
  }
}

TEST_F(FsTest, AttachChecksItsDescriptor) {
  const Status file = fs->attach(must(create_memfd("no socket")));
  ASSERT_FALSE(file);
  EXPECT_TRUE(file.error().is(Errc::kInvalidArgument));
  EXPECT_FALSE(fs->attached());
  attach();
  const Status again = fs->attach(must(server.duplicate()));
  ASSERT_FALSE(again);
  EXPECT_TRUE(again.error().is(Errc::kInvalidArgument));
}

TEST_F(FsTest, ATemplateHasNoServer) {
  EXPECT_TRUE(fs->quiescent());
  const TransportState state = must(machine.transport->save());
  const auto restore = [&](const TransportState& from, std::string_view tag) {
    MmioTransport other(std::make_unique<Fs>(*loop, tag), *machine.memory, must(EventFd::create()),
                        must(EventFd::create()));
    return other.restore(from);
  };
  EXPECT_TRUE(restore(state, "granary"));
  EXPECT_FALSE(restore(state, "other")) << "the driver has read the tag";
  TransportState damaged = state;
  --damaged.device.size_bytes;
  EXPECT_FALSE(restore(damaged, "granary"));
  damaged = state;
  damaged.device.bytes[offsetof(FsState, attached)] = std::byte{1};
  const Status refused = restore(damaged, "granary");
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().is(Errc::kSnapshotCorrupt));
  attach();
  EXPECT_FALSE(fs->quiescent());
}

}  // namespace
}  // namespace granary::virtio
