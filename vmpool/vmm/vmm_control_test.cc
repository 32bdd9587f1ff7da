// SPDX-License-Identifier: Apache-2.0
// The process and its control socket, without KVM: /dev/null stands in for /dev/kvm.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "vmpool/vmm/vmm_process.h"

namespace granary::vmm {
namespace {

using control::Type;

class VmmControl : public testing::Test {
 protected:
  void expect_malformed(uint32_t request = 0, Errc code = Errc::kProtocolMalformed) {
    const Result<control::Message> answer = vmm_.wait_answer();
    ASSERT_TRUE(answer) << answer.error().message();
    EXPECT_EQ(answer->type, Type::kError);
    EXPECT_EQ(answer->request, request);
    const Result<control::Empty> error = answer->as_answer<control::Empty>(Type::kDone);
    ASSERT_FALSE(error);
    EXPECT_TRUE(error.error().is(code)) << error.error().message();
  }
  void expect_alive() { EXPECT_TRUE(vmm_.ask<control::Stats>(Type::kGetStats)); }
  void send_raw(std::span<const std::byte> bytes, std::span<const int> fds = {}) {
    ASSERT_TRUE(send_message(vmm_.socket(), bytes, fds));
  }

  VmmProcess vmm_ = *VmmProcess::start("/dev/null");
};

TEST_F(VmmControl, TerminateEndsItOrderly) {
  ASSERT_TRUE(vmm_.ask(Type::kTerminate));
  const control::Message event = *vmm_.next_event();
  EXPECT_EQ(event.type, Type::kEnded);
  EXPECT_EQ(event.as<control::EndedEvent>()->end_state, static_cast<uint32_t>(EndState::kTerminated));
  EXPECT_EQ(vmm_.wait_exit(), 0);
  EXPECT_EQ(vmm_.status().end_state(), EndState::kTerminated);
}

TEST_F(VmmControl, EndsWhenNobodyHoldsTheSocket) {
  const int second_holder = ::fcntl(vmm_.socket(), F_DUPFD_CLOEXEC, 0);
  vmm_.close_socket();
  // The other holder still talks to it.
  ASSERT_TRUE(control::send(second_holder, Type::kGetStats, 5, control::Empty{}));
  const Result<control::Message> answer = control::receive(second_holder, 60'000);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->request, 5U);
  ::close(second_holder);
  EXPECT_EQ(vmm_.wait_exit(), 0);
  EXPECT_EQ(vmm_.status().end_state(), EndState::kTerminated);
}

TEST_F(VmmControl, GarbageIsAnsweredAndSurvived) {
  const std::vector<std::byte> noise(100, std::byte{0x5a});
  send_raw(noise);
  expect_malformed();
  send_raw(std::span(noise).first(3));
  expect_malformed();
  ASSERT_EQ(::send(vmm_.socket(), nullptr, 0, 0), 0);  // an empty message is not the end of the stream
  expect_malformed();
  expect_alive();
}

TEST_F(VmmControl, OtherVersionIsNamedSoWithTheRequestNumber) {
  const control::Header header{control::kMagic, control::kVersion + 1, static_cast<uint16_t>(Type::kGetStats), 77, 0};
  send_raw(std::as_bytes(std::span(&header, 1)));
  expect_malformed(77, Errc::kProtocolVersion);
  expect_alive();
}

TEST_F(VmmControl, TooManyDescriptorsAreRefusedAndClosed) {
  const Fd null = *open_file("/dev/null", O_RDONLY);
  // More than send_message() would send.
  std::array<int, kMaxMessageFds + 1> fds;
  fds.fill(null.get());
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(fds))> space{};
  control::Header header{control::kMagic, control::kVersion, static_cast<uint16_t>(Type::kPark), 3, 0};
  iovec part{&header, sizeof(header)};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = space.size();
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(fds));
  std::memcpy(CMSG_DATA(c), fds.data(), sizeof(fds));
  // More often than the process could have descriptors open if it kept them.
  for (int i = 0; i < 200; ++i) {
    ASSERT_GE(::sendmsg(vmm_.socket(), &message, 0), 0);
    expect_malformed();
  }
  const int one[] = {null.get()};
  ASSERT_TRUE(control::send(vmm_.socket(), Type::kGetStats, 9, control::Empty{}, one));
  expect_malformed(9);
  expect_alive();
}

TEST_F(VmmControl, WrongOrderNamesThePhase) {
  for (const Type type : {Type::kPark, Type::kUnpark}) {
    const Result<control::Empty> answer = vmm_.ask(type);
    ASSERT_FALSE(answer);
    EXPECT_TRUE(answer.error().is(Errc::kInvalidArgument));
    EXPECT_NE(answer.error().context().find("phase empty"), std::string::npos) << answer.error().context();
  }
  expect_alive();
}

TEST_F(VmmControl, NoKvmIsAnErrorNotAnEnd) {
  for (int i = 0; i < 2; ++i) {
    const Result<control::Empty> answer = vmm_.create_shell();
    ASSERT_FALSE(answer);
    EXPECT_TRUE(answer.error().is(Errc::kKvmUnavailable)) << answer.error().message();
  }
  expect_alive();
}

TEST_F(VmmControl, PeerThatDoesNotReadAnswersDoesNotBlockIt) {
  // Asks until both directions are full, then reads: every request that was sent has its answer, in order.
  ASSERT_TRUE(set_nonblocking(vmm_.socket()));
  uint32_t sent = 0;
  while (control::send(vmm_.socket(), Type::kGetStats, sent + 1, control::Empty{})) ++sent;
  ASSERT_GT(sent, 0U);
  for (uint32_t id = 1; id <= sent; ++id) {
    const Result<control::Message> answer = vmm_.wait_answer();
    ASSERT_TRUE(answer) << id << " of " << sent << ": " << answer.error().message();
    ASSERT_EQ(answer->request, id);
  }
  expect_alive();
}

}  // namespace
}  // namespace granary::vmm
