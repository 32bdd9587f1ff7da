// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/process_use.h"

#include <charconv>
#include <sstream>
#include <string>

#include "vmpool/base/fd.h"
#include "vmpool/base/units.h"

namespace granary::pool {
namespace {

std::string text_of(pid_t pid, const std::string& file) {
  Result<std::string> text = read_file("/proc/" + std::to_string(pid) + "/" + file);
  return text ? *std::move(text) : std::string();
}

}  // namespace

uint64_t cpu_ticks(pid_t pid) {
  const std::string stat = text_of(pid, "stat");
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(stat.substr(name_end + 1));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;  // state … cmajflt: fields 3 to 13
  uint64_t user = 0;
  uint64_t system = 0;
  fields >> user >> system;
  return user + system;
}

uint64_t rollup_bytes(pid_t pid, std::string_view field) {
  const std::string rollup = text_of(pid, "smaps_rollup");
  const size_t line = rollup.find("\n" + std::string(field) + ":");
  if (line == std::string::npos) return 0;
  const size_t digits = rollup.find_first_of("0123456789", line + field.size() + 2);
  uint64_t kib = 0;
  if (digits != std::string::npos) std::from_chars(rollup.data() + digits, rollup.data() + rollup.size(), kib);
  return kib * kKiB;
}

std::vector<pid_t> children_of(pid_t pid) {
  std::istringstream children(text_of(pid, "task/" + std::to_string(pid) + "/children"));
  std::vector<pid_t> all;
  for (pid_t child = 0; children >> child;) all.push_back(child);
  return all;
}

}  // namespace granary::pool
