// SPDX-License-Identifier: Apache-2.0
// Snapshot, restore and clones, with tiny guests.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <set>

#include "vmpool/base/machine_layout.h"
#include "vmpool/vmm/vmm_process.h"

namespace granary::vmm {
namespace {

using control::Type;

constexpr uint64_t kMemory = 4 * kMiB;

class VmmSnapshot : public testing::Test {
 protected:
  void SetUp() override {
    if (!open_file("/dev/kvm", O_RDWR)) GTEST_SKIP() << "needs /dev/kvm";
  }
  static VmmProcess shell(uint32_t vcpus = 1, control::DeviceSet devices = {}, uint64_t memory = kMemory) {
    VmmProcess vmm = *VmmProcess::start();
    const Result<control::Empty> made = vmm.create_shell(memory, vcpus, devices);
    EXPECT_TRUE(made) << made.error().message();
    return vmm;
  }
  // Boots `code`, waits for its first doorbell, parks and snapshots.
  static VmmProcess::Template make_template(const TinyCode& code, uint32_t vcpus = 1, control::DeviceSet devices = {}) {
    VmmProcess vmm = shell(vcpus, devices);
    EXPECT_TRUE(vmm.boot(code));
    EXPECT_TRUE(vmm.next_ring());
    EXPECT_TRUE(vmm.ask(Type::kPark));
    Result<VmmProcess::Template> made = vmm.snapshot();
    EXPECT_TRUE(made) << made.error().message();
    return *std::move(made);
  }
  static void expect_refused(const Result<control::Empty>& answer, Errc code) {
    ASSERT_FALSE(answer);
    EXPECT_TRUE(answer.error().is(code)) << answer.error().message();
  }
  // Counts, waits to be a clone, counts on.
  static TinyCode counting() {
    TinyCode code;
    code.count_and_ring().wait_for_generation();
    for (int i = 0; i < 5; ++i) code.count_and_ring();
    return code.halt();
  }
};

TEST_F(VmmSnapshot, GoesOnWhereItWas) {
  const VmmProcess::Template from = make_template(counting());
  EXPECT_EQ(from.done.memory_bytes, kMemory);
  EXPECT_GT(from.done.extents, 0U);
  EXPECT_LT(from.done.populated_bytes, kMiB);
  VmmProcess clone = shell();
  const Result<control::Empty> restored = clone.restore(from);
  ASSERT_TRUE(restored) << restored.error().message();
  for (uint32_t value = 2; value <= 6; ++value) EXPECT_EQ(*clone.next_ring(), value);
  EXPECT_GT(clone.ask<control::Stats>(Type::kGetStats)->restore_ns, 0U);
}

TEST_F(VmmSnapshot, TheParkedOriginalGoesOnToo) {
  VmmProcess vmm = shell();
  // Counts with a pause of some 100 000 instructions in between.
  TinyCode code;
  code.count_and_ring().bytes({0xb9, 0, 0, 2, 0, 0x49, 0x75, 0xfd});  // mov $0x20000, %ecx; 1: dec %ecx; jnz 1b
  const auto length = static_cast<uint8_t>(code.code().size() + 2);
  ASSERT_TRUE(vmm.boot(code.bytes({0xeb, static_cast<uint8_t>(-length)})));
  uint32_t last = *vmm.next_ring();
  for (int round = 0; round < 10; ++round) {
    ASSERT_TRUE(vmm.ask(Type::kPark));
    ASSERT_TRUE(vmm.snapshot());
    ASSERT_TRUE(vmm.ask(Type::kUnpark));
    for (int i = 0; i < 3; ++i) {
      const uint32_t next = *vmm.next_ring();
      ASSERT_EQ(next, (last + 1) % 256);
      last = next;
    }
  }
}

TEST_F(VmmSnapshot, GenerationIdIsThereBeforeTheFirstInstruction) {
  TinyCode code;
  code.ring(0x10).wait_for_generation();
  for (uint64_t i = 0; i < 16; i += 15) code.ring_byte_at(machine::kVmGenIdAddress + i);
  const VmmProcess::Template from = make_template(code.halt());
  for (const uint8_t generation : {uint8_t{0x21}, uint8_t{0x42}}) {
    VmmProcess clone = shell();
    ASSERT_TRUE(clone.restore(from, generation));
    EXPECT_EQ(*clone.next_ring(), generation);
    EXPECT_EQ(*clone.next_ring(), generation);
  }
}

TEST_F(VmmSnapshot, ClonesDoNotSeeEachOther) {
  const VmmProcess::Template from = make_template(counting());
  VmmProcess first = shell();
  VmmProcess second = shell();
  ASSERT_TRUE(first.restore(from));
  for (uint32_t value = 2; value <= 6; ++value) EXPECT_EQ(*first.next_ring(), value);
  ASSERT_TRUE(second.restore(from));
  for (uint32_t value = 2; value <= 6; ++value) EXPECT_EQ(*second.next_ring(), value);
  std::byte counter{};
  ASSERT_TRUE(pread_all(from.memory.get(), {&counter, 1}, TinyCode::kCounter.value));
  EXPECT_EQ(counter, std::byte{1}) << "the template itself is as it was";
}

TEST_F(VmmSnapshot, RestoredParkedWaitsForUnpark) {
  const VmmProcess::Template from = make_template(counting());
  VmmProcess clone = shell();
  ASSERT_TRUE(clone.restore(from, 1, false));
  EXPECT_EQ(clone.status().page().phase.load(), static_cast<uint32_t>(VmPhase::kParked));
  EXPECT_EQ(clone.ask<control::Stats>(Type::kGetStats)->exits, 0U);
  ASSERT_TRUE(clone.ask(Type::kUnpark));
  EXPECT_EQ(*clone.next_ring(), 2U);
}

TEST_F(VmmSnapshot, SeveralVcpusAndAllDevices) {
  control::DeviceSet all{};
  all.net_slots = 2;
  all.block_slots = 8;
  all.entropy = all.console = all.balloon = all.fs = 1;
  const VmmProcess::Template from = make_template(counting(), 4, all);
  VmmProcess clone = shell(4, all);
  const Result<control::Empty> restored = clone.restore(from);
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_EQ(*clone.next_ring(), 2U);
}

// All eight run when they are parked, and go on in the clone: the first releases the others through memory.
TEST_F(VmmSnapshot, EveryVcpuRunsIsParkedAndGoesOn) {
  static constexpr uint32_t kVcpus = machine::kMaxVcpus;
  TinyCode code;
  code.start_other_vcpus(0x10, 0x11).ring(0x10).wait_for_generation().release_other_vcpus().ring(0x11).halt();
  const auto expect_ring_of_each = [](VmmProcess& vmm, uint32_t value) {
    std::set<uint32_t> rang;
    for (uint32_t i = 0; i < kVcpus; ++i) {
      const Result<control::Message> event = vmm.next_event();
      ASSERT_TRUE(event) << event.error().message() << "; " << rang.size() << " vCPUs rang";
      const Result<control::DoorbellEvent> ring = event->as<control::DoorbellEvent>();
      ASSERT_TRUE(ring) << ring.error().message();
      EXPECT_EQ(ring->value, value);
      rang.insert(ring->vcpu);
    }
    EXPECT_EQ(rang.size(), kVcpus);
    EXPECT_EQ(*rang.rbegin(), kVcpus - 1);
  };
  VmmProcess vmm = shell(kVcpus);
  ASSERT_TRUE(vmm.boot(code));
  ASSERT_NO_FATAL_FAILURE(expect_ring_of_each(vmm, 0x10));
  ASSERT_TRUE(vmm.ask(Type::kPark));
  const Result<VmmProcess::Template> from = vmm.snapshot();
  ASSERT_TRUE(from) << from.error().message();
  for (int i = 0; i < 3; ++i) {
    VmmProcess clone = shell(kVcpus);
    const Result<control::Empty> restored = clone.restore(*from);
    ASSERT_TRUE(restored) << restored.error().message();
    ASSERT_NO_FATAL_FAILURE(expect_ring_of_each(clone, 0x11));
    EXPECT_EQ(clone.status().page().doorbells.load(), kVcpus);
  }
}

// Clones made one after the other all go on from the TSC of the snapshot, in units of 2^30 cycles (some 0.3 s): what
// passed on the host until then does not show.
TEST_F(VmmSnapshot, TscDoesNotJumpWhileParked) {
  TinyCode code;
  const auto ring_tsc = [&] {  // rdtsc; shrd $30, %edx, %eax: units of 2^30 cycles; to the doorbell
    code.bytes({0x0f, 0x31, 0x0f, 0xac, 0xd0, 30});
    code.bytes({0x66, 0xba, machine::kDoorbellPort & 0xff, machine::kDoorbellPort >> 8, 0xee});
  };
  ring_tsc();
  code.wait_for_generation();
  ring_tsc();
  code.halt();
  VmmProcess vmm = shell();
  ASSERT_TRUE(vmm.boot(code));
  const uint32_t at_boot = *vmm.next_ring();
  ASSERT_TRUE(vmm.ask(Type::kPark));
  const VmmProcess::Template from = *vmm.snapshot();
  std::vector<uint32_t> seen;
  for (int i = 0; i < 3; ++i) {
    VmmProcess clone = shell();
    ASSERT_TRUE(clone.restore(from, 1, false));
    ASSERT_TRUE(clone.ask(Type::kUnpark));
    seen.push_back((*clone.next_ring() - at_boot) % 256);
  }
  const auto [least, most] = std::minmax_element(seen.begin(), seen.end());
  EXPECT_LE(*most - *least, 1U);
}

TEST_F(VmmSnapshot, TemplateDoesNotGrowWhenClonesDirtyTheirMemory) {
  TinyCode code;
  code.ring(0x10).wait_for_generation().dirty(TinyCode::kCounter, Gpa{kMemory}).ring(0x11).halt();
  const VmmProcess::Template from = make_template(code);
  struct stat before {};
  ASSERT_EQ(::fstat(from.memory.get(), &before), 0);
  std::vector<uint64_t> restore_ns;
  for (int i = 0; i < 100; ++i) {
    VmmProcess clone = shell();
    ASSERT_TRUE(clone.restore(from));
    ASSERT_EQ(*clone.next_ring(), 0x11U);
    restore_ns.push_back(clone.ask<control::Stats>(Type::kGetStats)->restore_ns);
  }
  struct stat after {};
  ASSERT_EQ(::fstat(from.memory.get(), &after), 0);
  EXPECT_EQ(before.st_blocks, after.st_blocks);
  EXPECT_EQ(before.st_size, after.st_size);
  std::sort(restore_ns.begin(), restore_ns.end());
  std::printf("restore_ns p50=%llu p90=%llu\n", static_cast<unsigned long long>(restore_ns[50]),
              static_cast<unsigned long long>(restore_ns[90]));
}

TEST_F(VmmSnapshot, OtherShapeIsRefusedAndTheShellStaysGood) {
  control::DeviceSet entropy{};
  entropy.entropy = 1;
  const VmmProcess::Template from = make_template(counting());
  VmmProcess other_memory = shell(1, {}, 2 * kMemory);
  expect_refused(other_memory.restore(from), Errc::kSnapshotRestoreFailed);
  VmmProcess other_vcpus = shell(2);
  expect_refused(other_vcpus.restore(from), Errc::kSnapshotRestoreFailed);
  VmmProcess other_devices = shell(1, entropy);
  expect_refused(other_devices.restore(from), Errc::kSnapshotRestoreFailed);
  ASSERT_TRUE(other_devices.boot(TinyCode().ring(0x15).halt()));
  EXPECT_EQ(*other_devices.next_ring(), 0x15U);
}

TEST_F(VmmSnapshot, UnsealedCutOrDamagedFilesAreRefused) {
  const VmmProcess::Template from = make_template(counting());
  VmmProcess clone = shell();
  std::vector<std::byte> state(from.done.state_bytes);
  ASSERT_TRUE(pread_all(from.state.get(), state, 0));
  const auto with_state = [&](std::span<const std::byte> bytes, bool seal) {
    VmmProcess::Template bad{*create_memfd("state"), *from.memory.duplicate(), {}};
    EXPECT_TRUE(pwrite_all(bad.state.get(), bytes, 0));
    EXPECT_TRUE(!seal || seal_memfd(bad.state.get()));
    return clone.restore(bad);
  };
  expect_refused(with_state(state, false), Errc::kInvalidArgument);
  expect_refused(with_state(std::span(state).first(100), true), Errc::kSnapshotTruncated);
  expect_refused(with_state(std::span(state).first(state.size() - 1), true), Errc::kSnapshotTruncated);
  state[state.size() / 2] ^= std::byte{1};
  expect_refused(with_state(state, true), Errc::kSnapshotCorrupt);

  VmmProcess::Template cut{*from.state.duplicate(), *create_memfd("memory", kMemory / 2), {}};
  ASSERT_TRUE(seal_memfd(cut.memory.get()));
  expect_refused(clone.restore(cut), Errc::kSnapshotTruncated);
  ASSERT_TRUE(clone.restore(from)) << "nothing of that has touched the shell";
  EXPECT_EQ(*clone.next_ring(), 2U);
}

TEST_F(VmmSnapshot, FilesForASnapshotMustBeEmpty) {
  VmmProcess vmm = shell();
  ASSERT_TRUE(vmm.boot(counting()));
  ASSERT_TRUE(vmm.next_ring());
  ASSERT_TRUE(vmm.ask(Type::kPark));
  const Fd empty = *create_memfd("empty");
  const Fd full = *create_memfd("full", kPageSize);
  const int first[] = {full.get(), empty.get()};
  expect_refused(vmm.ask(Type::kSnapshot, control::Empty{}, first), Errc::kInvalidArgument);
  const int second[] = {empty.get(), full.get()};
  expect_refused(vmm.ask(Type::kSnapshot, control::Empty{}, second), Errc::kInvalidArgument);
  EXPECT_TRUE(vmm.snapshot());
}

}  // namespace
}  // namespace granary::vmm
