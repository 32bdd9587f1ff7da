// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace granary {

// Log lines of the small processes (VMM, spawner, init), to standard error: "level message key=value …". The agent uses
// spdlog instead. One line is one write(2) of at most 1 KiB; control characters are replaced, so guest data cannot forge
// lines. Callers rate-limit what a guest can cause.
enum class LogLevel { kDebug, kInfo, kWarn, kError };
void set_log_level(LogLevel lowest);
void set_log_prefix(const char* prefix);  // e.g. "granary-vmm vm=7"; copied, at most 63 bytes
void log_line(LogLevel level, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Lets through at most `burst` lines, then one of every 1024, so that a hostile guest cannot fill a disk.
class LogLimit {
 public:
  explicit LogLimit(unsigned burst = 16) : burst_(burst) {}
  bool pass() { return seen_++ < burst_ || seen_ % 1024 == 0; }
  [[nodiscard]] unsigned long seen() const { return seen_; }

 private:
  unsigned burst_;
  unsigned long seen_ = 0;
};

}  // namespace granary
