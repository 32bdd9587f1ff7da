// SPDX-License-Identifier: Apache-2.0
#include "vmpool/boot/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "vmpool/boot/layout.h"
#include "vmpool/boot/memory_map.h"
#include "vmpool/boot/test_kernels.h"

namespace granary::boot {
namespace {

using testing::BzImage;
using testing::file_of;
using ::testing::HasSubstr;
using testing::PvhElf;

constexpr uint64_t kMemory = 64 * kMiB;

class LoaderTest : public ::testing::Test {
 protected:
  Result<BootPlan> load(std::string_view kernel, std::string_view command_line = "console=ttyS0", int initramfs = -1) {
    kernel_ = file_of(kernel);
    return load_guest(memory_, {kernel_.get(), initramfs, command_line, 2, 3});
  }
  void expect_refused(const std::string& kernel, Errc code, const std::string& text) {
    const Result<BootPlan> plan = load(kernel);
    ASSERT_FALSE(plan) << text;
    EXPECT_TRUE(plan.error().is(code)) << plan.error().message();
    EXPECT_THAT(plan.error().message(), HasSubstr(text));
  }
  template <class T>
  T at(uint64_t address) {
    Result<T> value = memory_.read<T>(Gpa{address});
    EXPECT_TRUE(value);
    return value ? *value : T{};
  }

  GuestMemory memory_ = *GuestMemory::create(kMemory);
  Fd kernel_;
};

TEST_F(LoaderTest, BzImageStartsInLongModeWithItsBootParams) {
  const Result<BootPlan> plan = load(BzImage().bytes());
  ASSERT_TRUE(plan) << plan.error().message();
  EXPECT_EQ(plan->mode, EntryMode::kLong64);
  EXPECT_EQ(plan->entry, Gpa{0x100'0200});
  EXPECT_EQ(at<uint8_t>(0x100'0000), 0xcc);
  EXPECT_EQ(at<uint8_t>(0x100'1000), 0);  // one past the kernel
  const auto params = at<boot_params>(plan->start_info.value);
  EXPECT_EQ(params.hdr.header, 0x53726448U);
  EXPECT_EQ(params.hdr.type_of_loader, 0xff);
  EXPECT_EQ(params.acpi_rsdp_addr, 0xe'0000U);
  EXPECT_EQ(params.hdr.ramdisk_size, 0U);
  ASSERT_EQ(params.e820_entries, 3);
  EXPECT_EQ(params.e820_table[2].addr + params.e820_table[2].size, kMemory);
  EXPECT_EQ(at<uint64_t>(params.hdr.cmd_line_ptr), 0x3d65'6c6f'736e'6f63U);  // "console="
  EXPECT_EQ(at<uint64_t>(0x500 + 0x10), 0x00af'9b00'0000'ffffU);
  EXPECT_EQ(at<uint64_t>(plan->page_table.value) & ~0xfffULL, layout::kPdpt.value);
  EXPECT_EQ(at<uint64_t>(layout::kPageDirectories.value + 3 * 4096 + 511 * 8), 0xffe0'0083U);
}

TEST_F(LoaderTest, PvhStartsInProtectedModeWithItsStartInfo) {
  const Fd initramfs = file_of(std::string(5000, 'i'));
  const Result<BootPlan> plan = load(PvhElf().bytes(), "quiet", initramfs.get());
  ASSERT_TRUE(plan) << plan.error().message();
  EXPECT_EQ(plan->mode, EntryMode::kProtected32);
  EXPECT_EQ(plan->entry, Gpa{0x100'0040});
  EXPECT_EQ(at<uint32_t>(plan->start_info.value), 0x336e'c578U);
  EXPECT_EQ(at<uint32_t>(plan->start_info.value + 12), 1U);         // modules
  EXPECT_EQ(at<uint64_t>(plan->start_info.value + 32), 0xe'0000U);  // RSDP
  EXPECT_EQ(at<uint32_t>(plan->start_info.value + 48), 3U);         // memory map entries
  const auto module = at<uint64_t>(layout::kModuleList.value);
  EXPECT_EQ(module, kMemory - 8192);
  EXPECT_EQ(at<uint8_t>(module + 4999), 'i');
  EXPECT_EQ(at<uint64_t>(layout::kModuleList.value + 8), 5000U);
  EXPECT_FALSE(plan->code.is_code_64);
}

TEST_F(LoaderTest, InitramfsRespectsTheKernelsLimit) {
  BzImage image;
  image.header.initrd_addr_max = 0x1ff'ffff;
  const Fd initramfs = file_of("cpio");
  const Result<BootPlan> plan = load(image.bytes(), "", initramfs.get());
  ASSERT_TRUE(plan) << plan.error().message();
  const auto params = at<boot_params>(plan->start_info.value);
  EXPECT_EQ(params.hdr.ramdisk_image, 0x1ff'f000U);
  EXPECT_EQ(params.hdr.ramdisk_size, 4U);
}

TEST_F(LoaderTest, RefusesInitramfsThatIsEmptyOrHasNoRoom) {
  const Fd empty = file_of("");
  Result<BootPlan> plan = load(BzImage().bytes(), "", empty.get());
  ASSERT_FALSE(plan);
  EXPECT_TRUE(plan.error().is(Errc::kInitramfsInvalid));
  const Fd large = file_of(std::string(48 * kMiB, 'x'));
  plan = load(BzImage().bytes(), "", large.get());
  ASSERT_FALSE(plan);
  EXPECT_TRUE(plan.error().is(Errc::kInitramfsInvalid));
  EXPECT_THAT(plan.error().message(), HasSubstr("50331648"));
}

TEST_F(LoaderTest, RefusesWhatIsNoKernel) {
  expect_refused("", Errc::kKernelInvalid, "0 bytes");
  expect_refused(std::string(100, 'a'), Errc::kKernelInvalid, "100 bytes");
  expect_refused(std::string(8192, 'a'), Errc::kKernelInvalid, "no bzImage magic");
}

TEST_F(LoaderTest, RefusesBadCommandLines) {
  Result<BootPlan> plan = load(BzImage().bytes(), std::string(2048, 'x'));
  ASSERT_FALSE(plan);
  EXPECT_TRUE(plan.error().is(Errc::kCommandLineTooLong));
  BzImage image;
  image.header.cmdline_size = 10;
  plan = load(image.bytes(), "12345678901");
  ASSERT_FALSE(plan);
  EXPECT_TRUE(plan.error().is(Errc::kCommandLineTooLong));
  plan = load(BzImage().bytes(), std::string_view("a\0b", 3));
  ASSERT_FALSE(plan);
  EXPECT_TRUE(plan.error().is(Errc::kInvalidArgument));
  EXPECT_TRUE(load(BzImage().bytes(), std::string(2047, 'x')));
}

struct BadHeader {
  const char* text;
  Errc code;
  void (*change)(BzImage&);
};

TEST_F(LoaderTest, RefusesEachBadBzImageHeader) {
  const BadHeader cases[] = {
      {"version 0x20b", Errc::kKernelInvalid, [](BzImage& i) { i.header.version = 0x20b; }},
      {"LOADED_HIGH", Errc::kKernelInvalid, [](BzImage& i) { i.header.loadflags = 0; }},
      {"XLF_KERNEL_64", Errc::kKernelInvalid, [](BzImage& i) { i.header.xloadflags = 0; }},
      {"no bzImage magic", Errc::kKernelInvalid, [](BzImage& i) { i.header.header = 0; }},
      {"no bzImage magic", Errc::kKernelInvalid, [](BzImage& i) { i.header.boot_flag = 0; }},
      {"kernel_alignment", Errc::kKernelInvalid, [](BzImage& i) { i.header.kernel_alignment = 0x30'0000; }},
      {"kernel_alignment", Errc::kKernelInvalid, [](BzImage& i) { i.header.kernel_alignment = 0; }},
      {"pref_address", Errc::kKernelInvalid, [](BzImage& i) { i.header.pref_address = 0x110'0000; }},
      {"syssize", Errc::kKernelInvalid, [](BzImage& i) { i.header.syssize = 0xffff'ffff; }},
      {"syssize", Errc::kKernelInvalid, [](BzImage& i) { i.header.syssize = 0; }},
      {"syssize", Errc::kKernelInvalid, [](BzImage& i) { i.header.syssize = 4096 / 16 + 1; }},
      {"payload", Errc::kKernelInvalid, [](BzImage& i) { i.header.payload_offset = 0xffff'ff00; }},
      {"payload", Errc::kKernelInvalid, [](BzImage& i) { i.header.payload_length = 4096; }},
      {"payload", Errc::kKernelInvalid, [](BzImage& i) { i.header.payload_length = 0; }},
      {"init_size", Errc::kKernelInvalid, [](BzImage& i) { i.header.init_size = 100; }},
      {"header ends", Errc::kKernelInvalid, [](BzImage& i) { i.header_end = 0x210; }},
      {"below 1 MiB", Errc::kKernelInvalid, [](BzImage& i) { i.header.pref_address = 0; }},
      {"more memory", Errc::kKernelTooBig, [](BzImage& i) { i.header.init_size = 0xffff'f000; }},
      {"more memory", Errc::kKernelTooBig, [](BzImage& i) { i.header.pref_address = 0xffff'ffff'ffe0'0000; }},
      {"setup_sects 64", Errc::kKernelInvalid, [](BzImage& i) { i.header.setup_sects = 64, i.cut_to = 8192; }},
  };
  for (const BadHeader& bad : cases) {
    SCOPED_TRACE(bad.text);
    BzImage image;
    bad.change(image);
    expect_refused(image.bytes(), bad.code, bad.text);
  }
}

struct BadElf {
  const char* text;
  Errc code;
  void (*change)(PvhElf&);
};

TEST_F(LoaderTest, RefusesEachBadElf) {
  const BadElf cases[] = {
      {"64-bit file", Errc::kKernelInvalid, [](PvhElf& e) { e.header.e_ident[EI_CLASS] = ELFCLASS32; }},
      {"64-bit file", Errc::kKernelInvalid, [](PvhElf& e) { e.header.e_ident[EI_DATA] = ELFDATA2MSB; }},
      {"machine 183", Errc::kKernelInvalid, [](PvhElf& e) { e.header.e_machine = EM_AARCH64; }},
      {"type 1", Errc::kKernelInvalid, [](PvhElf& e) { e.header.e_type = ET_REL; }},
      {"program headers", Errc::kKernelInvalid, [](PvhElf& e) { e.header.e_phnum = 0; }},
      {"program headers", Errc::kKernelInvalid, [](PvhElf& e) { e.header.e_phnum = 65; }},
      {"program headers", Errc::kKernelInvalid, [](PvhElf& e) { e.header.e_phentsize = 32; }},
      {"outside the file", Errc::kKernelInvalid, [](PvhElf& e) { e.header.e_phoff = UINT64_MAX; }},
      {"outside the file", Errc::kKernelInvalid, [](PvhElf& e) { e.load.p_offset = UINT64_MAX; }},
      {"outside the file", Errc::kKernelInvalid, [](PvhElf& e) { e.load.p_filesz = 4096; }},
      {"more bytes in the file", Errc::kKernelInvalid, [](PvhElf& e) { e.load.p_memsz = 512; }},
      {"no PVH entry", Errc::kKernelInvalid, [](PvhElf& e) { e.note_type = 6; }},
      {"no PVH entry", Errc::kKernelInvalid, [](PvhElf& e) { e.notes.p_filesz = 8; }},
      {"no PVH entry", Errc::kKernelInvalid, [](PvhElf& e) { e.notes.p_type = PT_NULL; }},
      {"no loaded segment", Errc::kKernelInvalid, [](PvhElf& e) { e.entry = 0x200'0000; }},
      {"below 1 MiB", Errc::kKernelInvalid, [](PvhElf& e) { e.load.p_paddr = e.entry = 0x1000; }},
      {"more memory", Errc::kKernelTooBig, [](PvhElf& e) { e.load.p_memsz = UINT64_MAX; }},
      {"more memory", Errc::kKernelTooBig, [](PvhElf& e) { e.load.p_paddr = e.entry = 0x7000'0000; }},
  };
  for (const BadElf& bad : cases) {
    SCOPED_TRACE(bad.text);
    PvhElf elf;
    bad.change(elf);
    expect_refused(elf.bytes(), bad.code, bad.text);
  }
}

TEST_F(LoaderTest, RefusesShapesOutOfRange) {
  kernel_ = file_of(BzImage().bytes());
  Result<BootPlan> plan = load_guest(memory_, {kernel_.get(), -1, "", 9, 0});
  ASSERT_FALSE(plan);
  EXPECT_TRUE(plan.error().is(Errc::kVcpusOutOfRange));
  plan = load_guest(memory_, {kernel_.get(), -1, "", 1, 20});
  ASSERT_FALSE(plan);
  EXPECT_TRUE(plan.error().is(Errc::kInvalidArgument));
}

TEST(MemoryMapTest, SplitsAroundTheHole) {
  const GuestMemory memory = *GuestMemory::create(4 * kGiB);
  const std::vector<MemoryMapEntry> map = memory_map(memory);
  ASSERT_EQ(map.size(), 4U);
  EXPECT_EQ(map[1].type, MemoryType::kReserved);
  EXPECT_EQ(map[1].start, 0x9'fc00U);
  EXPECT_EQ(map[1].start + map[1].size_bytes, 1 * kMiB);
  EXPECT_EQ(map[2].start + map[2].size_bytes, 3 * kGiB);
  EXPECT_EQ(map[3].start, 4 * kGiB);
  EXPECT_EQ(map[3].size_bytes, 1 * kGiB);
}

}  // namespace
}  // namespace granary::boot
