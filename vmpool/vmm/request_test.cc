// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/request.h"

#include <gtest/gtest.h>

#include <functional>

namespace granary::vmm {
namespace {

using control::Type;

template <class Body>
control::Message message(Type type, const Body& body, size_t fd_count = 0) {
  control::Message m;
  m.type = type;
  const auto bytes = std::as_bytes(std::span(&body, 1));
  m.body.assign(bytes.begin(), bytes.end());
  for (size_t i = 0; i < fd_count; ++i) m.fds.push_back(*open_file("/dev/null", 0));
  return m;
}

Errc code_of(const Result<Request>& result) {
  return result ? Errc{} : static_cast<Errc>(result.error().code().value());
}

control::CreateShell good_shell() {
  control::CreateShell shell{};
  shell.memory_bytes = 16 * kMiB;
  shell.vcpus = 1;
  return shell;
}

TEST(CheckRequest, TakesWhatIsRight) {
  EXPECT_TRUE(check_request(message(Type::kCreateShell, good_shell()), VmPhase::kEmpty));
  control::Boot boot{};
  boot.command_line_bytes = 3;
  control::set_text(boot.command_line, "a=b");
  const Result<Request> request = check_request(message(Type::kBoot, boot, 1), VmPhase::kShell);
  ASSERT_TRUE(request);
  EXPECT_EQ(std::get<BootRequest>(*request).command_line, "a=b");
  EXPECT_FALSE(std::get<BootRequest>(*request).initramfs);
  boot.with_initramfs = 1;
  EXPECT_TRUE(std::get<BootRequest>(*check_request(message(Type::kBoot, boot, 2), VmPhase::kShell)).initramfs);
}

TEST(CheckRequest, WrongOrderNamesRequestAndPhase) {
  const Result<Request> request = check_request(message(Type::kBoot, control::Boot{}, 1), VmPhase::kRunning);
  ASSERT_FALSE(request);
  EXPECT_TRUE(request.error().is(Errc::kInvalidArgument));
  EXPECT_EQ(request.error().context(), "boot in phase running; allowed in: shell");
}

TEST(CheckRequest, EachPhaseTakesOnlyItsRequests) {
  struct Case {
    Type type;
    std::initializer_list<VmPhase> allowed;
    size_t fds;
  };
  const Case cases[] = {{Type::kPark, {VmPhase::kRunning}, 0},
                        {Type::kUnpark, {VmPhase::kParked}, 0},
                        {Type::kSnapshot, {VmPhase::kParked}, 2},
                        {Type::kGetStats, {VmPhase::kEmpty, VmPhase::kShell, VmPhase::kRunning, VmPhase::kParked}, 0},
                        {Type::kTerminate, {VmPhase::kEmpty, VmPhase::kShell, VmPhase::kRunning, VmPhase::kParked}, 0}};
  for (const Case& c : cases) {
    for (uint32_t phase = 0; phase <= static_cast<uint32_t>(VmPhase::kEnded); ++phase) {
      const bool allowed =
          std::find(c.allowed.begin(), c.allowed.end(), static_cast<VmPhase>(phase)) != c.allowed.end();
      const bool taken{check_request(message(c.type, control::Empty{}, c.fds), static_cast<VmPhase>(phase))};
      EXPECT_EQ(taken, allowed) << static_cast<int>(c.type) << " in phase " << phase;
    }
  }
}

TEST(CheckRequest, TypesOfOthersAreMalformed) {
  for (const int type : {0, 1, 2, 16, 17, 32, 76, 96, 97, 128, 0xffff}) {
    EXPECT_EQ(code_of(check_request(message(static_cast<Type>(type), control::Empty{}), VmPhase::kEmpty)),
              Errc::kProtocolMalformed);
  }
}

TEST(CheckRequest, WrongSizesAndDescriptorsAreMalformed) {
  EXPECT_EQ(code_of(check_request(message(Type::kCreateShell, control::Empty{}), VmPhase::kEmpty)),
            Errc::kProtocolMalformed);
  EXPECT_EQ(code_of(check_request(message(Type::kCreateShell, good_shell(), 1), VmPhase::kEmpty)),
            Errc::kProtocolMalformed);
  EXPECT_EQ(code_of(check_request(message(Type::kBoot, control::Boot{}, 0), VmPhase::kShell)),
            Errc::kProtocolMalformed);
  EXPECT_EQ(code_of(check_request(message(Type::kBoot, control::Boot{}, 2), VmPhase::kShell)),
            Errc::kProtocolMalformed);
  EXPECT_EQ(code_of(check_request(message(Type::kRestore, control::Restore{}, 1), VmPhase::kShell)),
            Errc::kProtocolMalformed);
  EXPECT_EQ(code_of(check_request(message(Type::kSnapshot, control::Empty{}, 3), VmPhase::kParked)),
            Errc::kProtocolMalformed);
}

TEST(CheckRequest, FieldsOutOfBounds) {
  struct Case {
    Errc code;
    std::function<void(control::CreateShell&)> spoil;
  };
  const Case cases[] = {{Errc::kVcpusOutOfRange, [](auto& s) { s.vcpus = 0; }},
                        {Errc::kVcpusOutOfRange, [](auto& s) { s.vcpus = 9; }},
                        {Errc::kInvalidArgument, [](auto& s) { s.devices.net_slots = 3; }},
                        {Errc::kInvalidArgument, [](auto& s) { s.devices.block_slots = 9; }},
                        {Errc::kInvalidArgument, [](auto& s) { s.devices.entropy = 2; }},
                        {Errc::kInvalidArgument, [](auto& s) { s.devices.fs = 2; }}};
  for (const Case& c : cases) {
    control::CreateShell shell = good_shell();
    c.spoil(shell);
    EXPECT_EQ(code_of(check_request(message(Type::kCreateShell, shell), VmPhase::kEmpty)), c.code);
  }
  control::Boot boot{};
  boot.command_line_bytes = sizeof(boot.command_line);
  EXPECT_EQ(code_of(check_request(message(Type::kBoot, boot, 1), VmPhase::kShell)), Errc::kCommandLineTooLong);
  boot.command_line_bytes = 1;  // a NUL
  EXPECT_EQ(code_of(check_request(message(Type::kBoot, boot, 1), VmPhase::kShell)), Errc::kInvalidArgument);
  control::Restore restore{};
  restore.resume = 2;
  EXPECT_EQ(code_of(check_request(message(Type::kRestore, restore, 2), VmPhase::kShell)), Errc::kInvalidArgument);
  control::Attach attach{};
  attach.slot = 8;
  EXPECT_EQ(code_of(check_request(message(Type::kDetachBlock, control::Slot{8}), VmPhase::kRunning)), Errc::kInvalidArgument);
  EXPECT_EQ(code_of(check_request(message(Type::kAttachBlock, attach, 1), VmPhase::kShell)), Errc::kInvalidArgument);
  attach.slot = 1;
  EXPECT_EQ(code_of(check_request(message(Type::kAttachFs, attach, 1), VmPhase::kShell)), Errc::kInvalidArgument);
}

}  // namespace
}  // namespace granary::vmm
