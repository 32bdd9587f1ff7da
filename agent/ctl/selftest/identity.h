// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace granary::ctl::selftest {

// A shell script for a guest: prints what must differ between clones, one "name value" a line, with busybox alone.
const std::string& identity_script();

// Compares what identity_script() printed in clones. What it reads is a guest's: any bytes.
class Identities {
 public:
  // Complains of a name that is missing, and of a value that this or another clone had already.
  void add(const std::string& clone, const std::string& output);

  [[nodiscard]] size_t compared() const { return owners_.size(); }  // values that are unlike all others
  [[nodiscard]] size_t wrong() const { return wrong_; }             // complaints, also those not kept
  // The first of them, each naming the thing, the value and the clones.
  [[nodiscard]] const std::vector<std::string>& complaints() const { return complaints_; }

 private:
  void complain(std::string text);
  std::map<std::pair<std::string, std::string>, std::string> owners_;  // (name, value) -> clone
  std::vector<std::string> complaints_;
  size_t wrong_ = 0;
};

// A shell script that answers each line of its input with the guest's clocks.
const std::string& clock_script();
struct GuestClocks {
  int64_t realtime_ns = 0;  // since 1970
  double uptime_s = 0;      // since the guest's boot, /proc/uptime
};
// What clock_script() printed for one line; nothing while some of it is still to come, or when it is none of its.
std::optional<GuestClocks> parse_clocks(const std::string& output);

// How far `guest_ns` lies outside of what the host's clock showed before and after; 0: within.
int64_t outside_ns(int64_t guest_ns, int64_t before_ns, int64_t after_ns);

}  // namespace granary::ctl::selftest
