// SPDX-License-Identifier: Apache-2.0
#include "vmpool/boot/acpi.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <numeric>
#include <string>

#include "vmpool/base/machine_layout.h"
#include "vmpool/boot/layout.h"

namespace granary::boot {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

uint8_t sum(std::span<const std::byte> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), uint8_t{0}, [](uint8_t total, std::byte b) {
    return static_cast<uint8_t>(total + std::to_integer<uint8_t>(b));
  });
}

std::string run(const std::string& command) {
  std::string output;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return output;
  char buffer[4096];
  for (size_t n = 0; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
  ::pclose(pipe);
  return output;
}

TEST(AcpiTest, TablesHaveRightChecksumsAndPlacesForEveryShape) {
  for (uint32_t vcpus = 1; vcpus <= machine::kMaxVcpus; ++vcpus) {
    const auto tables = build_acpi_tables({vcpus, machine::kMaxVirtioSlots});
    ASSERT_TRUE(tables);
    ASSERT_EQ(tables->size(), 5U);
    uint64_t end = layout::kAcpi.value;
    for (const AcpiTable& table : *tables) {
      EXPECT_EQ(sum(table.bytes), 0) << std::string(table.signature.data(), 4);
      EXPECT_EQ(table.address.value % 16, 0U);
      EXPECT_GE(table.address.value, end);
      end = table.address.value + table.bytes.size();
    }
    EXPECT_LE(end, layout::kAcpiEnd.value);
    EXPECT_EQ(sum(std::span(tables->front().bytes).first(20)), 0);
  }
}

TEST(AcpiTest, XsdtNamesWhatLiesThere) {
  const GuestMemory memory = *GuestMemory::create(1 * kMiB);
  const Result<Gpa> rsdp = write_acpi_tables(memory, {2, 3});
  ASSERT_TRUE(rsdp);
  const auto xsdt = *memory.read<uint64_t>(*rsdp + 24);
  EXPECT_EQ(*memory.read<uint32_t>(Gpa{xsdt}), 0x5444'5358U);  // "XSDT"
  const auto fadt = *memory.read<uint64_t>(Gpa{xsdt + 36});
  EXPECT_EQ(*memory.read<uint32_t>(Gpa{fadt}), 0x5043'4146U);               // "FACP"
  EXPECT_EQ(*memory.read<uint32_t>(Gpa{fadt + 112}) & 1U << 20, 1U << 20);  // hardware-reduced
  EXPECT_EQ(*memory.read<uint64_t>(Gpa{fadt + 120}), machine::kResetPort);
  const auto dsdt = *memory.read<uint64_t>(Gpa{fadt + 140});
  EXPECT_EQ(*memory.read<uint32_t>(Gpa{dsdt}), 0x5444'5344U);  // "DSDT"
  const auto madt = *memory.read<uint64_t>(Gpa{xsdt + 44});
  EXPECT_EQ(*memory.read<uint32_t>(Gpa{madt}), 0x4349'5041U);  // "APIC"
  EXPECT_EQ(*memory.read<uint32_t>(Gpa{madt + 4}), 44U + 2 * 8 + 12 + 6);
}

TEST(AcpiTest, RefusesShapesOutOfRange) {
  for (const uint32_t vcpus : {0U, 9U}) {
    const auto tables = build_acpi_tables({vcpus, 0});
    ASSERT_FALSE(tables);
    EXPECT_TRUE(tables.error().is(Errc::kVcpusOutOfRange));
  }
  const auto tables = build_acpi_tables({1, 20});
  ASSERT_FALSE(tables);
  EXPECT_TRUE(tables.error().is(Errc::kInvalidArgument));
}

class IaslTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (run("iasl -v").find("ASL") == std::string::npos)
      GTEST_SKIP() << "iasl is missing: apt-get install acpica-tools";
    char pattern[] = "/tmp/granary-acpi-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    if (!folder_.empty()) run("rm -r " + folder_);
  }
  void write_tables(const AcpiShape& shape) {
    const auto tables = build_acpi_tables(shape);
    ASSERT_TRUE(tables);
    for (const AcpiTable& table : *tables) {
      std::ofstream file(folder_ + "/" + std::string(table.signature.data(), 3) + ".aml", std::ios::binary);
      file.write(reinterpret_cast<const char*>(table.bytes.data()), static_cast<std::streamsize>(table.bytes.size()));
    }
  }
  std::string folder_;
};

TEST_F(IaslTest, DisassemblesAndCompilesAgainWithoutErrors) {
  write_tables({8, machine::kMaxVirtioSlots});
  for (const char* name : {"DSD", "FAC", "API", "XSD"}) {
    const std::string log = run("cd " + folder_ + " && iasl -d " + name + ".aml && cat " + name + ".dsl");
    EXPECT_THAT(log, ::testing::Not(HasSubstr("Error"))) << log;
    EXPECT_THAT(log, ::testing::Not(HasSubstr("Invalid"))) << log;
    EXPECT_THAT(log, ::testing::Not(HasSubstr("Incorrect checksum"))) << log;
  }
  EXPECT_THAT(run("cd " + folder_ + " && iasl -ve -p again DSD.dsl"),
              AllOf(HasSubstr("0 Errors"), HasSubstr("0 Warnings")));
}

TEST_F(IaslTest, DsdtSaysWhatTheMachineHas) {
  write_tables({2, 3});
  const std::string dsl = run("cd " + folder_ + " && iasl -d DSD.aml && cat DSD.dsl");
  EXPECT_THAT(dsl, HasSubstr("\"LNRO0005\""));
  EXPECT_THAT(dsl, HasSubstr("0xD0002000,         // Address Base"));
  EXPECT_THAT(dsl, ::testing::Not(HasSubstr("0xD0003000")));
  EXPECT_THAT(dsl, HasSubstr("EisaId (\"PNP0501\")"));
  EXPECT_THAT(dsl, HasSubstr("Notify (\\_SB.VGEN, 0x80)"));
  EXPECT_THAT(dsl, HasSubstr("0x000EF000"));
  EXPECT_THAT(dsl, HasSubstr("0x00000007,"));  // GSI of the third slot
}

}  // namespace
}  // namespace granary::boot
