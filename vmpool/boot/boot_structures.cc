// SPDX-License-Identifier: Apache-2.0
#include "vmpool/boot/boot_structures.h"

#include <asm/bootparam.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "vmpool/boot/layout.h"
#include "vmpool/boot/memory_map.h"

namespace granary::boot {
namespace {

constexpr uint8_t kLoaderUnknown = 0xff;  // boot.rst: a loader without an assigned id
constexpr uint64_t kTableEntries = 512;
constexpr uint64_t kLargePage = 2 * kMiB;
constexpr uint64_t kPresentWritable = 0x3;
constexpr uint64_t kPageSizeBit = 0x80;
constexpr uint64_t kDirectories = 4;

// Code and data at the selectors that boot.rst names (__BOOT_CS = 0x10, __BOOT_DS = 0x18); PVH has none of its own.
constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr uint16_t kTaskSelector = 0x20;
constexpr uint8_t kTypeCode = 0xb;
constexpr uint8_t kTypeData = 0x3;
constexpr uint8_t kTypeBusyTask = 0xb;
constexpr uint32_t kTaskLimit = 0x67;
constexpr uint64_t kDescriptorCode64 = 0x00af'9b00'0000'ffff;
constexpr uint64_t kDescriptorCode32 = 0x00cf'9b00'0000'ffff;
constexpr uint64_t kDescriptorData = 0x00cf'9300'0000'ffff;
constexpr uint64_t kDescriptorTask = 0x0000'8b00'0000'0067;

// PVH: xen/include/public/arch-x86/hvm/start_info.h.
constexpr uint32_t kStartInfoMagic = 0x336e'c578;
constexpr uint32_t kStartInfoVersion = 1;
struct HvmStartInfo {
  uint32_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t module_count;
  uint64_t module_list;
  uint64_t command_line;
  uint64_t rsdp;
  uint64_t memory_map;
  uint32_t memory_map_entries;
  uint32_t reserved;
};
static_assert(sizeof(HvmStartInfo) == 56);
struct HvmModule {
  uint64_t start;
  uint64_t size_bytes;
  uint64_t command_line;
  uint64_t reserved;
};
struct HvmMemoryMapEntry {
  uint64_t start;
  uint64_t size_bytes;
  uint32_t type;
  uint32_t reserved;
};
static_assert(sizeof(HvmModule) == 32 && sizeof(HvmMemoryMapEntry) == 24);

Status write_gdt(const GuestMemory& memory, uint64_t code) {
  const std::array<uint64_t, 6> gdt = {0, 0, code, kDescriptorData, kDescriptorTask, 0};
  return memory.write(layout::kGdt, gdt);
}

// Identity map of the low 4 GiB, which holds everything the kernel touches before it builds its own tables.
Status write_page_tables(const GuestMemory& memory) {
  GRANARY_TRY(memory.write(layout::kPml4, layout::kPdpt.value | kPresentWritable));
  for (uint64_t directory = 0; directory < kDirectories; ++directory) {
    const Gpa table = layout::kPageDirectories + directory * kPageSize;
    GRANARY_TRY(memory.write(layout::kPdpt + directory * sizeof(uint64_t), table.value | kPresentWritable));
    std::array<uint64_t, kTableEntries> entries{};
    for (uint64_t i = 0; i < kTableEntries; ++i) {
      entries[i] = (directory * kTableEntries + i) * kLargePage | kPresentWritable | kPageSizeBit;
    }
    GRANARY_TRY(memory.write(table, entries));
  }
  return ok();
}

BootPlan base_plan(const LoadedKernel& kernel, Gpa start_info) {
  BootPlan plan;
  plan.mode = kernel.mode;
  plan.entry = kernel.entry;
  plan.start_info = start_info;
  plan.stack = layout::kStackTop;
  plan.gdt = layout::kGdt;
  plan.gdt_limit = 6 * sizeof(uint64_t) - 1;
  const bool is_64 = kernel.mode == EntryMode::kLong64;
  plan.code = {kCodeSelector, kTypeCode, is_64, !is_64, false, 0xffff'ffff};
  plan.data = {kDataSelector, kTypeData, false, true, false, 0xffff'ffff};
  plan.task = {kTaskSelector, kTypeBusyTask, false, false, true, kTaskLimit};
  return plan;
}

uint32_t low_word(uint64_t value) { return static_cast<uint32_t>(value); }
uint32_t high_word(uint64_t value) { return static_cast<uint32_t>(value >> 32); }

void fill_memory_map(boot_params& params, const GuestMemory& memory) {
  for (const MemoryMapEntry& entry : memory_map(memory)) {
    boot_e820_entry& to = params.e820_table[params.e820_entries++];
    to.addr = entry.start;
    to.size = entry.size_bytes;
    to.type = static_cast<uint32_t>(entry.type);
  }
}

}  // namespace

Result<BootPlan> plan_bzimage(const GuestMemory& memory, const LoadedKernel& kernel, const StartInfo& info) {
  boot_params params{};
  std::memcpy(&params.hdr, kernel.setup_header.data(), std::min(kernel.setup_header.size(), sizeof(params.hdr)));
  params.hdr.type_of_loader = kLoaderUnknown;
  params.hdr.cmd_line_ptr = low_word(layout::kCommandLine.value);
  params.hdr.ramdisk_image = low_word(info.initramfs.start.value);
  params.hdr.ramdisk_size = low_word(info.initramfs.size_bytes);
  params.ext_ramdisk_image = high_word(info.initramfs.start.value);
  params.ext_ramdisk_size = high_word(info.initramfs.size_bytes);
  params.acpi_rsdp_addr = info.rsdp.value;
  fill_memory_map(params, memory);
  GRANARY_TRY(memory.write(layout::kBootParams, params));
  GRANARY_TRY(write_gdt(memory, kDescriptorCode64));
  GRANARY_TRY(write_page_tables(memory));

  BootPlan plan = base_plan(kernel, layout::kBootParams);
  plan.page_table = layout::kPml4;
  return plan;
}

Result<BootPlan> plan_pvh(const GuestMemory& memory, const LoadedKernel& kernel, const StartInfo& info) {
  HvmStartInfo start{};
  start.magic = kStartInfoMagic;
  start.version = kStartInfoVersion;
  start.command_line = layout::kCommandLine.value;
  start.rsdp = info.rsdp.value;
  if (info.initramfs.size_bytes > 0) {
    start.module_count = 1;
    start.module_list = layout::kModuleList.value;
    GRANARY_TRY(
        memory.write(layout::kModuleList, HvmModule{info.initramfs.start.value, info.initramfs.size_bytes, 0, 0}));
  }
  start.memory_map = layout::kMemoryMap.value;
  for (const MemoryMapEntry& entry : memory_map(memory)) {
    const Gpa at = layout::kMemoryMap + start.memory_map_entries++ * sizeof(HvmMemoryMapEntry);
    GRANARY_TRY(
        memory.write(at, HvmMemoryMapEntry{entry.start, entry.size_bytes, static_cast<uint32_t>(entry.type), 0}));
  }
  GRANARY_TRY(memory.write(layout::kStartInfo, start));
  GRANARY_TRY(write_gdt(memory, kDescriptorCode32));
  return base_plan(kernel, layout::kStartInfo);
}

}  // namespace granary::boot
