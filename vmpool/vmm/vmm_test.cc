// SPDX-License-Identifier: Apache-2.0
// One VM from shell to its end, with tiny guests.
#include <fcntl.h>
#include <gtest/gtest.h>

#include "vmpool/base/machine_layout.h"
#include "vmpool/vmm/vmm_process.h"

namespace granary::vmm {
namespace {

using control::Type;

class VmmTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!open_file("/dev/kvm", O_RDWR)) GTEST_SKIP() << "needs /dev/kvm";
    vmm_.emplace(*VmmProcess::start());
  }
  void boot(const TinyCode& code, uint32_t vcpus = 1, control::DeviceSet devices = {}) {
    const Result<control::Empty> shell = vmm_->create_shell(8 * kMiB, vcpus, devices);
    ASSERT_TRUE(shell) << shell.error().message();
    const Result<control::Empty> booted = vmm_->boot(code);
    ASSERT_TRUE(booted) << booted.error().message();
  }
  void expect_ring(uint32_t value) {
    const Result<uint32_t> ring = vmm_->next_ring();
    ASSERT_TRUE(ring) << ring.error().message();
    EXPECT_EQ(*ring, value);
  }
  // The guest ends in this state, with exit code 0 and an event that says the same as the status page.
  void expect_end(EndState state) {
    Result<control::Message> event = vmm_->next_event();
    ASSERT_TRUE(event) << event.error().message();
    ASSERT_EQ(event->type, Type::kEnded);
    EXPECT_STREQ(to_string(static_cast<EndState>(event->as<control::EndedEvent>()->end_state)), to_string(state))
        << vmm_->status().page().end_reason;
    EXPECT_EQ(vmm_->wait_exit(), 0);
    EXPECT_EQ(vmm_->status().end_state(), state);
    EXPECT_NE(vmm_->status().page().end_reason[0], '\0');
  }

  std::optional<VmmProcess> vmm_;
};

TEST_F(VmmTest, RunsAGuestThatRingsTheDoorbell) {
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().ring(0x10).ring(0x11).halt()));
  expect_ring(0x10);
  expect_ring(0x11);
  EXPECT_EQ(vmm_->status().page().doorbells.load(), 2U);
  const Result<control::Stats> stats = vmm_->ask<control::Stats>(Type::kGetStats);
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->pio_exits, 2U);
  EXPECT_GE(stats->exits, 2U);
}

TEST_F(VmmTest, Shutdown) {
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().out(machine::kSleepControlPort, machine::kSleepTypeS5 << 2 | 1 << 5).halt()));
  expect_end(EndState::kShutdown);
}

TEST_F(VmmTest, ResetPort) {
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().out(machine::kResetPort, machine::kResetValue).halt()));
  expect_end(EndState::kReboot);
}

TEST_F(VmmTest, KeyboardControllerReset) {
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().out(machine::kI8042CommandPort, 0xfe).halt()));
  expect_end(EndState::kReboot);
}

TEST_F(VmmTest, PanicPort) {
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().out(machine::kPvpanicPort, 1).halt()));
  expect_end(EndState::kPanic);
}

TEST_F(VmmTest, ResetAfterPanicMessage) {
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().print("Kernel panic - not syncing\n").out(machine::kResetPort, 1).halt()));
  expect_end(EndState::kPanic);
  EXPECT_EQ(vmm_->status().console_tail(), "Kernel panic - not syncing\n");
}

TEST_F(VmmTest, TripleFault) {
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().bytes({0x0f, 0x0b}).halt()));  // ud2 without an IDT
  expect_end(EndState::kTripleFault);
}

TEST_F(VmmTest, InternalError) {
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().bytes({0xb8, 0, 0, 0, 0xd8, 0xff, 0xe0})));  // jump to where no memory is
  expect_end(EndState::kInternalError);
  EXPECT_EQ(vmm_->status().page().end_detail.load(), 1) << "KVM_INTERNAL_ERROR_EMULATION";
}

TEST_F(VmmTest, TerminateStopsARunningGuest) {
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().ring(0x10).bytes({0xeb, 0xfe}), 2));  // spins
  expect_ring(0x10);
  ASSERT_TRUE(vmm_->ask(Type::kTerminate));
  expect_end(EndState::kTerminated);
}

TEST_F(VmmTest, MmioOutsideDevicesReadsOnesAndIsCounted) {
  // mov 0xd0800000, %eax; inc %eax; jnz: not ones; ring
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().bytes({0xa1, 0, 0, 0x80, 0xd0, 0x40, 0x75, 0x07}).ring(0x1f).halt()));
  expect_ring(0x1f);
  EXPECT_EQ(vmm_->ask<control::Stats>(Type::kGetStats)->device_errors, 1U);
}

// Parks while the guest reads a device register in a loop: each read is complete afterwards, or the guest would see
// garbage.
TEST_F(VmmTest, ParkCompletesAPendingMmioRead) {
  TinyCode code;
  code.ring(0x10);
  code.bytes({0xa1, 0, 0, 0, 0xd0});                   // 1: mov MagicValue, %eax
  code.bytes({0x3d, 'v', 'i', 'r', 't', 0x74, 0xf4});  // cmp "virt", %eax; je 1b
  ASSERT_NO_FATAL_FAILURE(boot(code.ring(0x1e).halt()));
  expect_ring(0x10);
  const auto reads = [&] { return vmm_->ask<control::Stats>(Type::kGetStats)->mmio_exits; };
  // On a busy host it may be parked each time before it came to its first read.
  for (int i = 0; i < 100 || reads() == 0; ++i) {
    ASSERT_TRUE(vmm_->ask(Type::kPark));
    ASSERT_TRUE(vmm_->ask(Type::kUnpark));
  }
  EXPECT_EQ(vmm_->status().page().doorbells.load(), 1U);
}

TEST_F(VmmTest, WrongOrderIsRefusedAndHarmless) {
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().ring(0x10).bytes({0xeb, 0xfe})));
  expect_ring(0x10);
  const Result<control::Empty> again = vmm_->boot(TinyCode().halt());
  ASSERT_FALSE(again);
  EXPECT_TRUE(again.error().is(Errc::kInvalidArgument));
  EXPECT_NE(again.error().context().find("phase running"), std::string::npos);
  EXPECT_FALSE(vmm_->create_shell());
  EXPECT_FALSE(vmm_->snapshot());
  EXPECT_FALSE(vmm_->ask(Type::kUnpark));
  ASSERT_TRUE(vmm_->ask(Type::kPark));
  EXPECT_FALSE(vmm_->ask(Type::kPark));
  ASSERT_TRUE(vmm_->ask(Type::kUnpark));
}

TEST_F(VmmTest, ARefusedShellOrKernelCanBeFollowedByABetterOne) {
  const Result<control::Empty> tiny = vmm_->create_shell(4096);
  ASSERT_FALSE(tiny);
  EXPECT_TRUE(tiny.error().is(Errc::kMemoryOutOfRange)) << tiny.error().message();
  ASSERT_TRUE(vmm_->create_shell());
  const Fd text = *create_memfd("no kernel");
  ASSERT_TRUE(write_all(text.get(), std::as_bytes(std::span("this is no kernel, whatever its name may say"))));
  const int fds[] = {text.get()};
  const Result<control::Empty> refused = vmm_->ask(Type::kBoot, control::Boot{}, fds);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().is(Errc::kKernelInvalid)) << refused.error().message();
  ASSERT_TRUE(vmm_->boot(TinyCode().ring(0x12).halt()));
  expect_ring(0x12);
}

TEST_F(VmmTest, LargestMachineBoots) {
  control::DeviceSet all{};
  all.net_slots = 2;
  all.block_slots = 8;
  all.entropy = all.console = all.balloon = all.fs = 1;
  ASSERT_NO_FATAL_FAILURE(boot(TinyCode().ring(0x10).halt(), 8, all));
  expect_ring(0x10);
  ASSERT_TRUE(vmm_->ask(Type::kPark));
  ASSERT_TRUE(vmm_->snapshot());
}

}  // namespace
}  // namespace granary::vmm
