// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "vmpool/base/units.h"

namespace granary::boot {

// How the boot vCPU starts.
enum class EntryMode : uint32_t {
  kLong64 = 1,       // bzImage: 64-bit boot protocol, paging on, identity map (Linux, Documentation/x86/boot.rst)
  kProtected32 = 2,  // ELF with a PVH note: 32-bit protected mode, paging off (Xen, docs/misc/pvh.pandoc)
};

// A flat segment, as both boot protocols want it.
struct SegmentPlan {
  uint16_t selector = 0;
  uint8_t type = 0;  // of the descriptor: 0xb code, 0x3 data, 0xb busy TSS
  bool is_code_64 = false;
  bool is_32 = false;
  bool is_system = false;  // the TSS
  uint32_t limit = 0xffff'ffff;
};

// The boot vCPU's initial state, in plain numbers, so that this room needs no KVM: vmpool/kvm/boot_registers.h applies
// it.
struct BootPlan {
  EntryMode mode = EntryMode::kLong64;
  Gpa entry;       // rip
  Gpa start_info;  // rsi (boot_params) for kLong64, rbx (hvm_start_info) for kProtected32
  Gpa stack;       // rsp
  Gpa page_table;  // cr3; 0 for kProtected32
  Gpa gdt;
  uint16_t gdt_limit = 0;
  SegmentPlan code;
  SegmentPlan data;
  SegmentPlan task;
};

}  // namespace granary::boot
