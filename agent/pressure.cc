// SPDX-License-Identifier: Apache-2.0
#include "agent/pressure.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "vmpool/base/fd.h"
#include "vmpool/base/units.h"

namespace granary::agent {
namespace {

constexpr double kHighStall = 10;
constexpr double kCalmStall = 5;
constexpr int kCalmLooks = 5;

// The number behind `key`, which starts a line.
template <class Number>
std::optional<Number> number_after(const std::string& text, const std::string& key) {
  const size_t line = text.starts_with(key) ? 0 : text.find("\n" + key);
  if (line == std::string::npos) return std::nullopt;
  const size_t at = text.find_first_not_of(' ', text.find(key, line) + key.size());
  Number value{};
  if (at == std::string::npos) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), value);
  return error == std::errc() ? std::optional(value) : std::nullopt;
}

Result<uint64_t> meminfo_bytes(const std::string& text, const std::string& key, const std::string& file) {
  const auto kib = number_after<uint64_t>(text, key + ":");
  if (!kib) return Error(Errc::kProtocolMalformed, file + ": no number for " + key);
  return *kib * kKiB;
}

bool is_high(const MemoryReading& now, uint64_t min_available) {
  return now.stalled_percent ? *now.stalled_percent >= kHighStall : now.available_bytes / 2 < min_available;
}

bool is_calm(const MemoryReading& now, uint64_t min_available) {
  const bool stalls_no_more =
      now.stalled_percent ? *now.stalled_percent < kCalmStall : now.available_bytes / 4 >= min_available;
  return stalls_no_more && now.kubelet_available_bytes >= min_available + min_available / 4;
}

}  // namespace

Result<MemoryReading> read_memory(const MemoryFiles& files) {
  const std::string meminfo = GRANARY_TRY(read_file(files.meminfo));
  MemoryReading reading;
  reading.kubelet_available_bytes = GRANARY_TRY(meminfo_bytes(meminfo, "MemFree", files.meminfo)) +
                                    GRANARY_TRY(meminfo_bytes(meminfo, "Inactive(file)", files.meminfo));
  reading.available_bytes = GRANARY_TRY(meminfo_bytes(meminfo, "MemAvailable", files.meminfo));
  for (const std::string& file : files.stalls) {
    const auto text = read_file(file);
    const auto percent = text ? number_after<double>(*text, "some avg10=") : std::nullopt;
    if (percent) reading.stalled_percent = std::max(*percent, reading.stalled_percent.value_or(0));
  }
  return reading;
}

PressureLevel Pressure::look(const MemoryReading& now, uint64_t min_available) {
  calm_looks_ = is_calm(now, min_available) ? calm_looks_ + 1 : 0;
  if (now.kubelet_available_bytes < min_available) {
    level_ = PressureLevel::kCritical;
  } else if (is_high(now, min_available)) {
    level_ = PressureLevel::kHigh;
  } else if (level_ != PressureLevel::kNone) {
    level_ = calm_looks_ >= kCalmLooks ? PressureLevel::kNone : PressureLevel::kHold;
  }
  return level_;
}

std::string to_text(const MemoryReading& reading) {
  char stalled[32] = "no PSI";
  if (reading.stalled_percent) std::snprintf(stalled, sizeof(stalled), "%.1f %% stalled", *reading.stalled_percent);
  return "memory.available " + std::to_string(reading.kubelet_available_bytes / kMiB) + " MiB, MemAvailable " +
         std::to_string(reading.available_bytes / kMiB) + " MiB, " + stalled;
}

}  // namespace granary::agent
