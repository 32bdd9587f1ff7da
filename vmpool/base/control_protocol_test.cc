// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/control_protocol.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

namespace granary::control {
namespace {

size_t open_descriptors() {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

class ControlProtocol : public ::testing::Test {
 protected:
  void SetUp() override {
    Result<SocketPair> pair = create_message_socket_pair();
    ASSERT_TRUE(pair);
    near_ = std::move(pair->first);
    far_ = std::move(pair->second);
  }
  Error refuse(std::span<const std::byte> bytes) {
    EXPECT_TRUE(send_message(near_.get(), bytes));
    Result<Message> message = receive(far_.get(), 1000);
    EXPECT_FALSE(message);
    return message ? Error(Errc::kInvalidArgument, "accepted") : std::move(message).error();
  }
  Fd near_;
  Fd far_;
};

TEST_F(ControlProtocol, BodyAndDescriptorsArrive) {
  const Result<Fd> file = create_memfd("payload", 4096);
  ASSERT_TRUE(file);
  ASSERT_TRUE(send(near_.get(), Type::kKill, 7, VmRef{42}, std::array{file->get()}));
  const Result<Message> message = receive(far_.get(), 1000);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->type, Type::kKill);
  EXPECT_EQ(message->request, 7U);
  const Result<VmRef> body = message->as<VmRef>(1);
  ASSERT_TRUE(body);
  EXPECT_EQ(body->vm_id, 42U);
  EXPECT_EQ(*file_size(message->fds[0].get()), 4096U);
  EXPECT_NE(::fcntl(message->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(ControlProtocol, ErrorsKeepCategoryCodeAndContext) {
  ASSERT_TRUE(send_error(near_.get(), 1, Error::from_errno(ENOSPC, "write template")));
  ASSERT_TRUE(send_error(near_.get(), 2, Error(Errc::kPoolEmpty, "pool x")));
  const Result<Message> first = receive(far_.get(), 1000);
  const Result<Message> second = receive(far_.get(), 1000);
  ASSERT_TRUE(first && second);
  const Result<Empty> a = first->as_answer<Empty>(Type::kDone);
  const Result<Empty> b = second->as_answer<Empty>(Type::kDone);
  ASSERT_FALSE(a);
  ASSERT_FALSE(b);
  EXPECT_TRUE(a.error().is_errno(ENOSPC));
  EXPECT_EQ(a.error().context(), "write template");
  EXPECT_TRUE(b.error().is(Errc::kPoolEmpty));
}

TEST_F(ControlProtocol, RefusesGarbage) {
  EXPECT_TRUE(refuse(std::array<std::byte, 3>{}).is(Errc::kProtocolMalformed));
  EXPECT_TRUE(refuse(std::array<std::byte, 16>{}).is(Errc::kProtocolMalformed));
  Header lying{kMagic, kVersion, 16, 1, 99};
  EXPECT_TRUE(refuse(std::as_bytes(std::span(&lying, 1))).is(Errc::kProtocolMalformed));
  Header newer{kMagic, kVersion + 1, 16, 1, 0};
  EXPECT_TRUE(refuse(std::as_bytes(std::span(&newer, 1))).is(Errc::kProtocolVersion));
}

TEST_F(ControlProtocol, RefusesAWrongBodyOrNumberOfDescriptors) {
  ASSERT_TRUE(send(near_.get(), Type::kKill, 1, VmRef{1}));
  const Result<Message> message = receive(far_.get(), 1000);
  ASSERT_TRUE(message);
  EXPECT_FALSE(message->as<Hello>());
  EXPECT_FALSE(message->as<VmRef>(1));
  EXPECT_TRUE(message->as<VmRef>());
}

TEST_F(ControlProtocol, TooManyDescriptorsAreRefusedAndClosed) {
  const size_t before = open_descriptors();
  std::array<int, kMaxMessageFds + 2> fds;
  fds.fill(STDERR_FILENO);
  const Header header{kMagic, kVersion, 16, 1, 0};
  iovec part{const_cast<Header*>(&header), sizeof(header)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fds))] = {};
  msghdr raw{};
  raw.msg_iov = &part;
  raw.msg_iovlen = 1;
  raw.msg_control = control;
  raw.msg_controllen = sizeof(control);
  cmsghdr* c = CMSG_FIRSTHDR(&raw);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(fds));
  std::memcpy(CMSG_DATA(c), fds.data(), sizeof(fds));
  ASSERT_GT(::sendmsg(near_.get(), &raw, 0), 0);
  const Result<Message> message = receive(far_.get(), 1000);
  ASSERT_FALSE(message);
  EXPECT_TRUE(message.error().is(Errc::kProtocolMalformed));
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(ControlProtocol, ClosedPeerAndDeadlineAreTold) {
  EXPECT_TRUE(receive(far_.get(), 0).error().is(Errc::kDeadlineExceeded));
  near_.reset();
  EXPECT_TRUE(receive(far_.get(), 1000).error().is(Errc::kPeerGone));
  EXPECT_TRUE(send(far_.get(), Type::kHello, 1, Hello{1}).error().is(Errc::kPeerGone));
}

}  // namespace
}  // namespace granary::control
