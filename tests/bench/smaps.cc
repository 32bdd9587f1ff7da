// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/smaps.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <optional>
#include <vector>

namespace granary::bench {
namespace {

struct Area {
  uint64_t start = 0;
  uint64_t offset = 0;
  bool is_template = false;  // a private mapping of a memfd
  uint64_t pss_kib = 0;
  uint64_t anonymous_kib = 0;
};

std::optional<Area> parse_header(const std::string& line) {
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t offset = 0;
  char permissions[5] = {};
  if (std::sscanf(line.c_str(), "%lx-%lx %4s %lx", &start, &end, permissions, &offset) != 4) return std::nullopt;
  const bool is_template = permissions[3] == 'p' && line.find("/memfd:") != std::string::npos;
  return Area{start, offset, is_template, 0, 0};
}

std::vector<Area> parse_areas(std::string_view smaps) {
  std::vector<Area> areas;
  while (!smaps.empty()) {
    const size_t end = std::min(smaps.find('\n'), smaps.size());
    const std::string line(smaps.substr(0, end));
    smaps.remove_prefix(std::min(end + 1, smaps.size()));
    if (const auto area = parse_header(line)) {
      areas.push_back(*area);
    } else if (!areas.empty()) {
      (void)std::sscanf(line.c_str(), "Pss: %lu kB", &areas.back().pss_kib);
      (void)std::sscanf(line.c_str(), "Anonymous: %lu kB", &areas.back().anonymous_kib);
    }
  }
  return areas;
}

}  // namespace

Result<VmmMemory> parse_smaps(std::string_view smaps, uint64_t memory_bytes) {
  const std::vector<Area> areas = parse_areas(smaps);
  std::optional<uint64_t> base;
  for (const Area& area : areas) {
    if (area.is_template && area.offset < memory_bytes) base = area.start - area.offset;
  }
  if (!base) return Error::from_errno(ENOENT, "no private mapping of a template in the VMM's memory map");
  VmmMemory memory;
  for (const Area& area : areas) {
    if (area.start >= *base && area.start - *base < memory_bytes) {
      memory.guest_pss_bytes += area.pss_kib * 1024;
      memory.guest_private_bytes += area.anonymous_kib * 1024;
    } else {
      memory.vmm_pss_bytes += area.pss_kib * 1024;
    }
  }
  return memory;
}

Result<VmmMemory> read_vmm_memory(int32_t pid, uint64_t memory_bytes) {
  const std::string path = "/proc/" + std::to_string(pid) + "/smaps";
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  if (text.empty()) return Error::from_errno(ENOENT, "read " + path);
  return parse_smaps(text, memory_bytes);
}

}  // namespace granary::bench
