// SPDX-License-Identifier: Apache-2.0
#include "vmpool/kvm/cpuid.h"

#include <asm/kvm_para.h>
#include <gtest/gtest.h>

#include "vmpool/kvm/host_fingerprint.h"
#include "vmpool/kvm/preflight.h"
#include "vmpool/kvm/vcpu_state.h"

namespace granary::kvm {
namespace {

kvm_cpuid_entry2 entry(uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx) {
  kvm_cpuid_entry2 e{};
  e.function = function;
  e.index = index;
  e.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  e.eax = eax;
  e.ebx = ebx;
  e.ecx = ecx;
  e.edx = edx;
  return e;
}

constexpr uint32_t kAll = 0xffff'ffff;

// Everything a host could offer, with every bit set where bits are features.
CpuidTable generous(bool amd) {
  return {
      entry(0, 0, 0x20, amd ? 0x6874'7541 : 0x756e'6547, 0, 0),
      entry(1, 0, 0, kAll, kAll, kAll),
      entry(4, 0, 1 | 1 << 5 | 7 << 14 | 7 << 26, 0, 0, 0),
      entry(4, 3, 3 | 3 << 5 | 7 << 14 | 7 << 26, 0, 0, 0),
      entry(5, 0, kAll, kAll, kAll, kAll),
      entry(6, 0, kAll, kAll, kAll, kAll),
      entry(7, 0, 1, kAll, kAll, kAll),
      entry(0xa, 0, kAll, kAll, kAll, kAll),
      entry(0xb, 0, 1, 2, 0x100, 17),
      entry(0xd, 0, 0x6'00e7, 11008, 11008, 0),
      entry(0xd, 1, 0x1f, 0, 0x1900, 0),
      entry(0xd, 2, 256, 576, 0, 0),
      entry(0xd, 5, 64, 1088, 0, 0),
      entry(0xd, 6, 512, 1152, 0, 0),
      entry(0xd, 7, 1024, 1664, 0, 0),
      entry(0xd, 11, 16, 0, 1, 0),
      entry(0xd, 18, 8192, 2816, 6, 0),
      entry(0x1f, 0, 1, 2, 0x100, 17),
      entry(KVM_CPUID_SIGNATURE, 0, KVM_CPUID_FEATURES, 0, 0, 0),
      entry(KVM_CPUID_FEATURES, 0, kAll, 0, 0, kAll),
      entry(0x8000'0001, 0, 0, 0, kAll, kAll),
      entry(0x8000'0008, 0, 48 | 48 << 8, 0, 0xf0ff, 0),
      entry(0x8000'000a, 0, 1, 8, 0, kAll),
      entry(0x8000'001d, 3, 3 | 3 << 5 | 15 << 14, 0, 0, 0),
      entry(0x8000'001e, 0, 77, 0x1ff, 0x701, 0),
  };
}

const kvm_cpuid_entry2& leaf(const CpuidTable& table, uint32_t function, uint32_t index = 0) {
  static const kvm_cpuid_entry2 kMissing{};
  const kvm_cpuid_entry2* found = find_cpuid(table, function, index);
  EXPECT_NE(found, nullptr) << function;
  return found != nullptr ? *found : kMissing;
}

TEST(CpuidTest, TellsEachVcpuItsPlace) {
  for (uint32_t id = 0; id < 6; ++id) {
    const Result<CpuidTable> table = build_cpuid(generous(true), {6, true}, id);
    ASSERT_TRUE(table);
    EXPECT_EQ(leaf(*table, 1).ebx >> 24, id);
    EXPECT_EQ(leaf(*table, 1).ebx >> 16 & 0xff, 6U);
    EXPECT_EQ(leaf(*table, 0xb, 0).ebx, 1U);
    EXPECT_EQ(leaf(*table, 0xb, 1).eax, 3U);  // ids of six vCPUs need three bits
    EXPECT_EQ(leaf(*table, 0xb, 1).ebx, 6U);
    EXPECT_EQ(leaf(*table, 0xb, 1).ecx, 0x201U);
    EXPECT_EQ(leaf(*table, 0xb, 1).edx, id);
    EXPECT_EQ(leaf(*table, 0x8000'001e).eax, id);
    EXPECT_EQ(leaf(*table, 0x8000'001e).ebx, id);
    EXPECT_EQ(leaf(*table, 0x8000'0008).ecx & 0xffff, 0x3005U);
    EXPECT_EQ(leaf(*table, 0x1f).ebx, 0U);
  }
}

TEST(CpuidTest, LeavesAmdsCoreCountAloneOnIntel) {
  const Result<CpuidTable> table = build_cpuid(generous(false), {2, true}, 0);
  ASSERT_TRUE(table);
  EXPECT_EQ(leaf(*table, 0x8000'0008).ecx, 0xf0ffU);
  EXPECT_EQ(leaf(*table, 4, 0).eax >> 14 & 0xfff, 0U);
  EXPECT_EQ(leaf(*table, 4, 3).eax >> 14 & 0xfff, 1U);
  EXPECT_EQ(leaf(*table, 4, 0).eax >> 26, 1U);
}

TEST(CpuidTest, HidesWhatASnapshotCannotCarry) {
  const Result<CpuidTable> table = build_cpuid(generous(true), {1, false}, 0);
  ASSERT_TRUE(table);
  EXPECT_EQ(leaf(*table, 1).ecx & (1U << 3 | 1U << 5 | 1U << 24), 0U);  // MONITOR, VMX, TSC deadline
  EXPECT_NE(leaf(*table, 1).ecx & 1U << 31, 0U);
  EXPECT_EQ(leaf(*table, 1).edx & 1U << 28, 0U);
  EXPECT_EQ(leaf(*table, 7).edx & (1U << 22 | 1U << 24 | 1U << 25), 0U);  // AMX
  EXPECT_EQ(leaf(*table, 0xa).eax, 0U);
  EXPECT_EQ(leaf(*table, 5).eax, 0U);
  EXPECT_EQ(leaf(*table, 0x8000'0001).ecx & 1U << 2, 0U);  // SVM
  EXPECT_EQ(leaf(*table, 0x8000'000a).edx, 0U);
  const uint32_t paravirt = leaf(*table, KVM_CPUID_FEATURES).eax;
  for (const int hidden : {KVM_FEATURE_ASYNC_PF, KVM_FEATURE_STEAL_TIME, KVM_FEATURE_ASYNC_PF_INT,
                           KVM_FEATURE_PV_UNHALT, KVM_FEATURE_MIGRATION_CONTROL}) {
    EXPECT_EQ(paravirt >> hidden & 1, 0U) << hidden;
  }
  for (const int shown : {KVM_FEATURE_CLOCKSOURCE2, KVM_FEATURE_CLOCKSOURCE_STABLE_BIT}) {
    EXPECT_EQ(paravirt >> shown & 1, 1U) << shown;
  }
}

TEST(CpuidTest, ExtendedStateFitsASnapshot) {
  const Result<CpuidTable> table = build_cpuid(generous(false), {1, true}, 0);
  ASSERT_TRUE(table);
  EXPECT_EQ(leaf(*table, 0xd, 0).eax, 0xe7U);  // no AMX tiles
  EXPECT_EQ(leaf(*table, 0xd, 0).ecx, 2688U);
  EXPECT_LE(leaf(*table, 0xd, 0).ecx, kMaxXsaveBytes);
  EXPECT_EQ(leaf(*table, 0xd, 18).eax, 0U);
  EXPECT_EQ(leaf(*table, 0xd, 11).eax, 0U);
  EXPECT_EQ(leaf(*table, 0xd, 1).ecx, 0U);
  EXPECT_NE(leaf(*table, 1).ecx & 1U << 24, 0U);
}

TEST(CpuidTest, RefusesWhatCannotWork) {
  for (const uint32_t vcpus : {0U, 9U}) {
    const Result<CpuidTable> table = build_cpuid(generous(true), {vcpus, true}, 0);
    ASSERT_FALSE(table);
    EXPECT_TRUE(table.error().is(Errc::kVcpusOutOfRange));
  }
  ASSERT_FALSE(build_cpuid(generous(true), {2, true}, 2));
  const Result<CpuidTable> table = build_cpuid({}, {1, true}, 0);
  ASSERT_FALSE(table);
  EXPECT_TRUE(table.error().is(Errc::kKvmCapabilityMissing));
}

TEST(PreflightVerdictTest, OneLineNamesTheFirstReasonAndItsRemedy) {
  const std::vector<Check> checks = run_preflight("/nonexistent/kvm");
  EXPECT_FALSE(can_run_linux(checks));
  EXPECT_EQ(one_line_verdict(checks),
            "this host cannot run Linux guests: kvm.device: open /nonexistent/kvm: No such file or directory; load the "
            "module kvm_intel or kvm_amd, or switch on virtualisation in firmware");
  EXPECT_GT(checks.size(), 5U);
  for (const Check& check : checks) {
    EXPECT_FALSE(check.name.empty());
    EXPECT_EQ(check.remedy.empty(), check.verdict == Check::Verdict::kOk) << check.name;
  }
}

TEST(PreflightVerdictTest, AFileThatIsNoKvmIsNamed) {
  const std::vector<Check> checks = run_preflight("/dev/null");
  ASSERT_FALSE(can_run_linux(checks));
  EXPECT_NE(one_line_verdict(checks).find("KVM_GET_API_VERSION"), std::string::npos) << one_line_verdict(checks);
}

TEST(HostFingerprintTest, TextHasOneFieldALine) {
  HostFingerprint host;
  host.cpu_vendor = "GenuineIntel";
  host.microcode = "0x1";
  host.tsc_khz = 5;
  const std::string text = to_text(host);
  EXPECT_EQ(text.find("cpu_vendor=GenuineIntel\ncpu_family=0\n"), 0U);
  EXPECT_NE(text.find("\ntsc_khz=5\n"), std::string::npos);
}

}  // namespace
}  // namespace granary::kvm
