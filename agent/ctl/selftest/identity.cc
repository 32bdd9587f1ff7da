// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/identity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <sstream>
#include <string_view>

namespace granary::ctl::selftest {
namespace {

constexpr std::array kNames = {"boot-id",      "uuid",         "machine-id", "hostname",
                               "urandom-cpu0", "urandom-cpu1", "at-random",  "mac"};
constexpr size_t kKeptComplaints = 20;
constexpr size_t kMaxValue = 128;
constexpr double kMaxSeconds = 1e10;  // the year 2286

// The number behind `name` at the start of a line, whose end has come.
std::optional<double> number_behind(const std::string& text, std::string_view name) {
  const size_t at = text.find(name);
  if (at == std::string::npos || text.find('\n', at) == std::string::npos) return std::nullopt;
  std::istringstream words(text.substr(at + name.size(), 40));
  double value = 0;
  if (!(words >> value) || !std::isfinite(value) || value < 0 || value > kMaxSeconds) return std::nullopt;
  return value;
}

}  // namespace

// AT_RANDOM (25 in the auxiliary vector, getauxval(3)) is the address of 16 bytes in the shell's own memory.
const std::string& identity_script() {
  static const std::string kScript = R"sh(set -e
hex() { od -An -v -tx1 | tr -d ' \n'; }
r=/proc/sys/kernel/random
echo "boot-id $(cat $r/boot_id)"
echo "uuid $(cat $r/uuid)"
echo "machine-id $(cat /etc/machine-id)"
echo "hostname $(hostname)"
echo "urandom-cpu0 $(taskset 1 head -c 16 /dev/urandom | hex)"
echo "urandom-cpu1 $(taskset 2 head -c 16 /dev/urandom | hex)"
at=$(od -An -v -tu8 -w16 /proc/$$/auxv | while read key value; do [ "$key" != 25 ] || echo "$value"; done)
echo "at-random $(dd if=/proc/$$/mem bs=1 skip=$at count=16 2>/dev/null | hex)"
for link in /sys/class/net/*; do
  [ "${link##*/}" = lo ] || echo "mac $(cat "$link/address")"
done
)sh";
  return kScript;
}

void Identities::complain(std::string text) {
  ++wrong_;
  if (complaints_.size() < kKeptComplaints) complaints_.push_back(std::move(text));
}

void Identities::add(const std::string& clone, const std::string& output) {
  std::set<std::string> seen;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    const size_t blank = line.find(' ');
    const std::string name = line.substr(0, blank);
    if (std::ranges::find(kNames, name) == kNames.end()) continue;
    const std::string value = blank == std::string::npos ? "" : line.substr(blank + 1, kMaxValue);
    if (value.empty()) continue;
    seen.insert(name);
    const auto [at, fresh] = owners_.emplace(std::pair(name, value), clone);
    if (!fresh) complain(name + " " + value + " of clone " + clone + " is also that of clone " + at->second);
  }
  for (const char* name : kNames) {
    if (!seen.contains(name)) complain("clone " + clone + " says no " + name);
  }
}

// The uptime without a fork, so that as little as can be lies between the host's two looks at its clock.
const std::string& clock_script() {
  static const std::string kScript = "while read x; do read up rest </proc/uptime; echo \"uptime $up\"; adjtimex; done";
  return kScript;
}

std::optional<GuestClocks> parse_clocks(const std::string& output) {
  const auto uptime = number_behind(output, "uptime ");
  const auto seconds = number_behind(output, "time.tv_sec:");
  const auto micros = number_behind(output, "time.tv_usec:");
  if (!uptime || !seconds || !micros || *micros >= 1e6) return std::nullopt;
  return GuestClocks{
      .realtime_ns = static_cast<int64_t>(*seconds) * 1'000'000'000 + static_cast<int64_t>(*micros) * 1000,
      .uptime_s = *uptime};
}

int64_t outside_ns(int64_t guest_ns, int64_t before_ns, int64_t after_ns) {
  return std::max<int64_t>({before_ns - guest_ns, guest_ns - after_ns, 0});
}

}  // namespace granary::ctl::selftest
