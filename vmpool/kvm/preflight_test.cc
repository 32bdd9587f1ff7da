// SPDX-License-Identifier: Apache-2.0
// Needs /dev/kvm.
#include "vmpool/kvm/preflight.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "vmpool/kvm/host_fingerprint.h"
#include "vmpool/kvm/probe_guest.h"
#include "vmpool/kvm/probe_programs.h"
#include "vmpool/kvm/vcpu_state.h"
#include "vmpool/kvm/vm_state.h"

namespace granary::kvm {
namespace {

class PreflightTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Result<Kvm> opened = Kvm::open();
    if (!opened) GTEST_SKIP() << opened.error().message();
    kvm_.emplace(*std::move(opened));
  }
  std::optional<Kvm> kvm_;
};

TEST_F(PreflightTest, RunsEveryCheckAndKnowsWhetherTheHostServes) {
  const std::vector<Check> checks = run_preflight();
  for (const Check& check : checks) {
    std::printf("%-10s %-38s %s%s%s\n", to_string(check.verdict), check.name.c_str(), check.detail.c_str(),
                check.remedy.empty() ? "" : "; ", check.remedy.c_str());
  }
  std::printf("%s\n", one_line_verdict(checks).c_str());
  const auto find = [&](const char* name) {
    return std::find_if(checks.begin(), checks.end(), [&](const Check& c) { return c.name == name; });
  };
  // Whatever runs tiny guests does these. The emulated node's KVM also runs Linux.
  for (const char* name : {"guest.real_mode", "guest.long_mode", "guest.irqfd", "guest.snapshot"}) {
    ASSERT_NE(find(name), checks.end()) << name;
    EXPECT_EQ(find(name)->verdict, Check::Verdict::kOk) << name << ": " << find(name)->detail;
  }
  const char* const where = std::getenv("GRANARY_WHERE");
  if (where != nullptr && std::string_view(where) == "node") {
    EXPECT_TRUE(can_run_linux(checks)) << one_line_verdict(checks);
  }
}

TEST_F(PreflightTest, AGuestThatNeverExitsIsStoppedAndTheSignalHandlerIsPutBack) {
  constexpr uint8_t kForever[] = {0xeb, 0xfe};  // jmp $
  Result<probe::Guest> guest = probe::Guest::create(*kvm_, {.code = kForever});
  ASSERT_TRUE(guest) << guest.error().message();
  const Result<uint8_t> mark = guest->run_to_mark();
  ASSERT_FALSE(mark);
  EXPECT_TRUE(mark.error().is(Errc::kDeadlineExceeded)) << mark.error().message();
  struct sigaction action {};
  ASSERT_EQ(::sigaction(SIGRTMIN + 7, nullptr, &action), 0);
  EXPECT_EQ(action.sa_handler, SIG_DFL);
}

TEST_F(PreflightTest, ATripleFaultIsNamed) {
  constexpr uint8_t kUndefined[] = {0x0f, 0x0b};  // ud2, no handler
  Result<probe::Guest> guest = probe::Guest::create(*kvm_, {.code = kUndefined});
  ASSERT_TRUE(guest) << guest.error().message();
  const Result<uint8_t> mark = guest->run_to_mark();
  ASSERT_FALSE(mark);
  EXPECT_NE(mark.error().message().find("triple fault"), std::string::npos) << mark.error().message();
}

TEST_F(PreflightTest, RestoreRefusesHostileState) {
  Result<probe::Guest> guest = probe::Guest::create(*kvm_, {.code = probe::kSnapshot});
  ASSERT_TRUE(guest) << guest.error().message();
  ASSERT_TRUE(guest->run_to_mark());
  ASSERT_TRUE(guest->complete_exit());
  const Result<std::vector<uint32_t>> msrs = msrs_to_save(*kvm_);
  ASSERT_TRUE(msrs);
  EXPECT_EQ(msrs->front(), 0x10U);
  EXPECT_EQ(msrs->back(), 0x6e0U);
  const Result<VcpuState> good = save(guest->vcpu(), *msrs);
  ASSERT_TRUE(good) << good.error().message();
  EXPECT_GT(good->msr_count, 20U);

  struct Case {
    Errc code;
    const char* text;
    void (*change)(VcpuState&);
  };
  const Case cases[] = {
      {Errc::kSnapshotCorrupt, "MSRs", [](VcpuState& s) { s.msr_count = 257; }},
      {Errc::kSnapshotCorrupt, "extended state", [](VcpuState& s) { s.xsave_bytes = 17000; }},
      {Errc::kSnapshotCorrupt, "vCPU id", [](VcpuState& s) { s.id = 3; }},
      {Errc::kSnapshotRestoreFailed, "KVM_SET_SREGS", [](VcpuState& s) { s.sregs.cr4 = ~0ULL; }},
      {Errc::kSnapshotRestoreFailed, "KVM_SET_XCRS", [](VcpuState& s) { s.xcrs.nr_xcrs = 17; }},
      {Errc::kSnapshotRestoreFailed, "MSR 0xdeadbeef", [](VcpuState& s) { s.msrs[1].index = 0xdeadbeef; }},
      {Errc::kSnapshotRestoreFailed, "KVM_SET_MP_STATE", [](VcpuState& s) { s.mp_state.mp_state = 77; }},
      {Errc::kSnapshotRestoreFailed, "KVM_SET_VCPU_EVENTS", [](VcpuState& s) { s.events.flags = ~0U; }},
  };
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.text);
    VcpuState state = *good;
    bad.change(state);
    Result<probe::Guest> other = guest->sibling(*kvm_);
    ASSERT_TRUE(other);
    const Status status = restore(other->vcpu(), state);
    ASSERT_FALSE(status);
    EXPECT_TRUE(status.error().is(bad.code)) << status.error().message();
    EXPECT_NE(status.error().message().find(bad.text), std::string::npos) << status.error().message();
  }
  Result<VmState> vm = save(guest->vm());
  ASSERT_TRUE(vm);
  vm->irqchips[1].chip_id = 2;
  const Status status = restore(guest->vm(), *vm);
  ASSERT_FALSE(status);
  EXPECT_TRUE(status.error().is(Errc::kSnapshotCorrupt));
}

TEST_F(PreflightTest, FingerprintIsStable) {
  const Result<HostFingerprint> first = read_host_fingerprint(*kvm_);
  const Result<HostFingerprint> second = read_host_fingerprint(*kvm_);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(to_text(*first), to_text(*second));
  EXPECT_GT(first->tsc_khz, 0U);
  EXPECT_NE(to_text(*first).find("\nkernel_release="), std::string::npos);
}

}  // namespace
}  // namespace granary::kvm
