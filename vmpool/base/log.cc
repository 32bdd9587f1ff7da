// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/log.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace granary {
namespace {

std::atomic<LogLevel> lowest_level = LogLevel::kInfo;
char prefix[64] = "granary";

}  // namespace

void set_log_level(LogLevel lowest) { lowest_level = lowest; }
void set_log_prefix(const char* text) { std::snprintf(prefix, sizeof(prefix), "%s", text); }

void log_line(LogLevel level, const char* format, ...) {
  if (level < lowest_level) return;
  static constexpr const char* kNames[] = {"debug", "info", "warn", "error"};
  char line[1024];
  const int head = std::snprintf(line, sizeof(line), "%s %s ", kNames[static_cast<int>(level)], prefix);
  va_list arguments;
  va_start(arguments, format);
  const int body = std::vsnprintf(line + head, sizeof(line) - static_cast<size_t>(head) - 1, format, arguments);
  va_end(arguments);
  const int wanted = head + std::max(body, 0);
  const auto length = static_cast<size_t>(std::min(wanted, static_cast<int>(sizeof(line)) - 2));
  std::replace_if(line, line + length, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  line[length] = '\n';
  [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, line, length + 1);
}

}  // namespace granary
