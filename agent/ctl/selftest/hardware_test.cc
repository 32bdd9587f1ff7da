// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/hardware.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace granary::ctl::selftest {
namespace {

using testing::HasSubstr;

TEST(Hardware, VmxAndSvmAreHardwareAlsoWhenNested) {
  EXPECT_EQ(why_no_hardware({.model = {}, .flags = "fpu vmx sse", .kvm = "kvm_intel", .hypervisor = {}}), "");
  EXPECT_EQ(why_no_hardware({.model = {}, .flags = "svm", .kvm = "kvm_amd", .hypervisor = {}}), "");
  EXPECT_EQ(why_no_hardware({.model = {}, .flags = "fpu hypervisor vmx", .kvm = "kvm_intel", .hypervisor = "KVMKVMKVM"}), "");
}

TEST(Hardware, AKvmWithoutThemIsSoftware) {
  EXPECT_THAT(why_no_hardware({.model = {}, .flags = "fpu hypervisor svme vmx_x", .kvm = {}, .hypervisor = "KVMKVMKVM"}),
              HasSubstr("neither VMX nor SVM"));
  EXPECT_THAT(why_no_hardware({.model = {}, .flags = {}, .kvm = {}, .hypervisor = {}}), HasSubstr("neither VMX nor SVM"));
}

TEST(Hardware, AnotherModulesKvmIsNone) {
  EXPECT_THAT(why_no_hardware({.model = {}, .flags = "svm", .kvm = {}, .hypervisor = {}}), HasSubstr("modprobe"));
}

TEST(Hardware, AnEmulatedCpuIsNone) {
  EXPECT_THAT(why_no_hardware({.model = {}, .flags = "svm hypervisor", .kvm = "kvm_amd", .hypervisor = "TCGTCGTCGTCG"}),
              HasSubstr("emulated by QEMU"));
}

TEST(Hardware, ThisCpuIsRead) {
  const Cpu cpu = this_cpu();
  EXPECT_THAT(cpu.flags, HasSubstr("fpu"));
  EXPECT_EQ(cpu.hypervisor.empty(), (" " + cpu.flags + " ").find(" hypervisor ") == std::string::npos);
}

}  // namespace
}  // namespace granary::ctl::selftest
