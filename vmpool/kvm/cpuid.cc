// SPDX-License-Identifier: Apache-2.0
// Leaves and bits: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; Linux,
// Documentation/virt/kvm/x86/cpuid.rst.
#include "vmpool/kvm/cpuid.h"

#include <asm/kvm_para.h>

#include <algorithm>
#include <bit>
#include <string>

#include "vmpool/base/machine_layout.h"
#include "vmpool/kvm/vcpu_state.h"

namespace granary::kvm {
namespace {

constexpr uint32_t bit(unsigned n) { return uint32_t{1} << n; }

constexpr uint32_t kTopology = 0xb;
constexpr uint32_t kExtendedState = 0xd;
constexpr uint32_t kExtendedFeatures = 0x8000'0001;
constexpr uint32_t kLongMode = bit(29);  // of kExtendedFeatures' EDX

// Leaves that the guest sees as zero, because they describe what it does not get.
constexpr uint32_t kHiddenLeaves[] = {
    0x5,                       // MONITOR/MWAIT
    0xa,                       // performance counters
    0xf,         0x10,         // resource monitoring and allocation
    0x12,                      // SGX
    0x14,                      // processor trace
    0x1c,                      // last branch records
    0x1d,        0x1e,         // AMX
    0x1f,                      // 0xb says it all: one package of single-threaded cores
    0x8000'000a,               // SVM
    0x8000'001b, 0x8000'001c,  // IBS, LWP
    0x8000'001f, 0x8000'0020,  // memory encryption, resource control
    0x8000'0022, 0x8000'0026,  // performance counters, extended topology
};

struct Topology {
  uint32_t vcpus;
  uint32_t id;
  [[nodiscard]] uint32_t id_bits() const { return static_cast<uint32_t>(std::bit_width(vcpus - 1)); }
};

bool is_amd(const CpuidTable& table) {
  const kvm_cpuid_entry2* leaf = find_cpuid(table, 0);
  return leaf != nullptr && (leaf->ebx == 0x6874'7541 || leaf->ebx == 0x6f67'7948);  // "Auth"enticAMD, "Hygo"nGenuine
}

void set_field(uint32_t& reg, unsigned shift, unsigned width, uint32_t value) {
  const uint32_t mask = (bit(width) - 1) << shift;
  reg = (reg & ~mask) | ((value << shift) & mask);
}

void fill_leaf_1(kvm_cpuid_entry2& e, const Topology& topology, bool tsc_deadline) {
  set_field(e.ebx, 24, 8, topology.id);
  set_field(e.ebx, 16, 8, topology.vcpus);
  constexpr uint32_t kHidden = bit(2) | bit(3) | bit(4) | bit(5) | bit(6) | bit(7) | bit(8) | bit(15);
  // DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, PDCM
  e.ecx &= ~(kHidden | bit(24));
  if (tsc_deadline) e.ecx |= bit(24);
  e.ecx |= bit(31);                                             // running under a hypervisor
  e.edx &= ~(bit(21) | bit(22) | bit(28) | bit(29) | bit(31));  // DS, ACPI, HTT, TM, PBE
  if (topology.vcpus > 1) e.edx |= bit(28);
}

void fill_leaf_6(kvm_cpuid_entry2& e) {
  e.eax &= bit(2);  // the LAPIC timer always runs; nothing else of power management is there
  e.ebx = e.ecx = e.edx = 0;
}

void fill_leaf_7(kvm_cpuid_entry2& e) {
  if (e.index == 0) {
    e.ebx &= ~(bit(2) | bit(12) | bit(15) | bit(25));  // SGX, resource monitoring, resource allocation, processor trace
    e.ecx &= ~(bit(5) | bit(7) | bit(23) | bit(30));   // UMWAIT, shadow stack, key locker, SGX launch control
    e.edx &= ~(bit(18) | bit(19) | bit(20));           // PCONFIG, architectural LBR, indirect branch tracking
    e.edx &= ~(bit(22) | bit(24) | bit(25));           // AMX
  }
  if (e.index == 1) {
    e.eax &= ~(bit(21) | bit(22));  // AMX-FP16, HRESET
    e.edx &= ~(bit(8) | bit(18));   // AMX-COMPLEX, supervisor shadow stack
  }
}

// A cache's number of sharers: everything below the third level belongs to one vCPU (leaves 4 and 0x8000001d).
void fill_cache(kvm_cpuid_entry2& e, const Topology& topology, bool with_cores) {
  const uint32_t type = e.eax & 0x1f;
  if (type == 0) return;
  const uint32_t level = (e.eax >> 5) & 0x7;
  set_field(e.eax, 14, 12, level >= 3 ? topology.vcpus - 1 : 0);
  if (with_cores) set_field(e.eax, 26, 6, topology.vcpus - 1);
}

constexpr uint64_t kTileFeatures = uint64_t{3} << 17;  // AMX: more state than a snapshot holds
constexpr uint64_t kLegacyAndHeader = 576;

// Extended state: XCR0 without AMX, no supervisor state (it needs ioctls that a snapshot does not use).
void fill_extended_state(CpuidTable& table) {
  kvm_cpuid_entry2* main = nullptr;
  uint64_t size_bytes = kLegacyAndHeader;
  for (kvm_cpuid_entry2& e : table) {
    if (e.function != kExtendedState) continue;
    if (e.index == 0) {
      e.eax &= ~static_cast<uint32_t>(kTileFeatures);
      main = &e;
    } else if (e.index == 1) {
      e.eax &= ~bit(4);  // XFD
      e.ecx = e.edx = 0;
    } else if (main != nullptr) {
      const uint64_t features = uint64_t{main->edx} << 32 | main->eax;
      const bool wanted = e.index < 64 && (features >> e.index & 1) != 0;
      if (wanted) size_bytes = std::max(size_bytes, uint64_t{e.ebx} + e.eax);
      if (!wanted) e.eax = e.ebx = e.ecx = e.edx = 0;
    }
  }
  if (main != nullptr) main->ebx = main->ecx = static_cast<uint32_t>(size_bytes);
}

void fill_paravirt(kvm_cpuid_entry2& e, const Topology& topology) {
  uint32_t allowed = bit(KVM_FEATURE_CLOCKSOURCE) | bit(KVM_FEATURE_CLOCKSOURCE2) | bit(KVM_FEATURE_NOP_IO_DELAY) |
                     bit(KVM_FEATURE_PV_EOI) | bit(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT);
  if (topology.vcpus > 1) {
    allowed |= bit(KVM_FEATURE_PV_UNHALT) | bit(KVM_FEATURE_PV_SEND_IPI) | bit(KVM_FEATURE_PV_SCHED_YIELD);
  }
  e.eax &= allowed;
  e.ebx = e.ecx = e.edx = 0;
}

void fill_amd(kvm_cpuid_entry2& e, const Topology& topology, bool amd) {
  switch (e.function) {
    case kExtendedFeatures:
      // SVM, IBS, SKINIT, watchdog, LWP, node id MSR, counters of core, northbridge and L3, MONITORX
      e.ecx &= ~(bit(2) | bit(10) | bit(12) | bit(13) | bit(15) | bit(19) | bit(23) | bit(24) | bit(28) | bit(29));
      if (amd) set_field(e.ecx, 1, 1, topology.vcpus > 1 ? 1 : 0);  // CmpLegacy: leaf 1 counts cores
      break;
    case 0x8000'0008:
      if (!amd) break;
      set_field(e.ecx, 0, 8, topology.vcpus - 1);
      set_field(e.ecx, 12, 4, topology.id_bits());
      break;
    case 0x8000'001d:
      fill_cache(e, topology, false);
      break;
    case 0x8000'001e:
      e.eax = topology.id;
      e.ebx = topology.id;  // one thread per core
      e.ecx = e.edx = 0;    // one node
      break;
    default:
      break;
  }
}

void add_topology(CpuidTable& table, const Topology& topology) {
  const kvm_cpuid_entry2* leaf_0 = find_cpuid(table, 0);
  if (leaf_0 == nullptr || leaf_0->eax < kTopology) return;
  std::erase_if(table, [](const kvm_cpuid_entry2& e) { return e.function == kTopology; });
  struct Level {
    uint32_t shift, count, type;
  };
  const Level levels[] = {{0, 1, 1}, {topology.id_bits(), topology.vcpus, 2}, {0, 0, 0}};
  uint32_t index = 0;
  for (const Level& level : levels) {
    kvm_cpuid_entry2 e{};
    e.function = kTopology;
    e.index = index++;
    e.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    e.eax = level.shift;
    e.ebx = level.count;
    e.ecx = level.type << 8 | e.index;
    e.edx = topology.id;
    table.push_back(e);
  }
}

void fill_entry(kvm_cpuid_entry2& e, const CpuidShape& shape, const Topology& topology, bool amd) {
  if (std::find(std::begin(kHiddenLeaves), std::end(kHiddenLeaves), e.function) != std::end(kHiddenLeaves)) {
    e.eax = e.ebx = e.ecx = e.edx = 0;
    return;
  }
  switch (e.function) {
    case 0x1:
      return fill_leaf_1(e, topology, shape.tsc_deadline);
    case 0x4:
      return fill_cache(e, topology, true);
    case 0x6:
      return fill_leaf_6(e);
    case 0x7:
      return fill_leaf_7(e);
    case KVM_CPUID_SIGNATURE:
      e.eax = KVM_CPUID_FEATURES;
      return;
    case KVM_CPUID_FEATURES:
      return fill_paravirt(e, topology);
    default:
      return fill_amd(e, topology, amd);
  }
}

Status check_usable(const CpuidTable& table) {
  const kvm_cpuid_entry2* features = find_cpuid(table, kExtendedFeatures);
  if (features == nullptr || (features->edx & kLongMode) == 0) {
    return Error(Errc::kKvmCapabilityMissing, "KVM_GET_SUPPORTED_CPUID offers no long mode; use a 64-bit host CPU");
  }
  const kvm_cpuid_entry2* paravirt = find_cpuid(table, KVM_CPUID_FEATURES);
  if (paravirt == nullptr || (paravirt->eax & bit(KVM_FEATURE_CLOCKSOURCE2)) == 0) {
    return Error(Errc::kKvmCapabilityMissing, "KVM_GET_SUPPORTED_CPUID offers no kvmclock; use a current host kernel");
  }
  return ok();
}

}  // namespace

const kvm_cpuid_entry2* find_cpuid(const CpuidTable& table, uint32_t function, uint32_t index) {
  const auto at = std::find_if(table.begin(), table.end(), [&](const kvm_cpuid_entry2& e) {
    return e.function == function && ((e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) == 0 || e.index == index);
  });
  return at == table.end() ? nullptr : &*at;
}

Result<CpuidShape> cpuid_shape(const Kvm& kvm, uint32_t vcpus) {
  return CpuidShape{vcpus, GRANARY_TRY(kvm.check_extension(KVM_CAP_TSC_DEADLINE_TIMER)) > 0};
}

Result<CpuidTable> build_cpuid(const CpuidTable& supported, const CpuidShape& shape, uint32_t id) {
  if (shape.vcpus < 1 || shape.vcpus > machine::kMaxVcpus || id >= shape.vcpus) {
    return Error(Errc::kVcpusOutOfRange,
                 "vCPU " + std::to_string(id) + " of " + std::to_string(shape.vcpus) + "; allowed: 1 to 8 vCPUs");
  }
  CpuidTable table = supported;
  GRANARY_TRY(check_usable(table));
  const Topology topology{shape.vcpus, id};
  const bool amd = is_amd(table);
  for (kvm_cpuid_entry2& e : table) fill_entry(e, shape, topology, amd);
  fill_extended_state(table);
  add_topology(table, topology);
  return table;
}

}  // namespace granary::kvm
