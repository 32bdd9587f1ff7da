// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>

namespace granary::agent {

// Control characters become '?'.
inline std::string one_line(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

// For a proto3 string, which must be UTF-8: a guest's bytes may be anything.
inline std::string ascii(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c >= 0x80; }, '?');
  return text;
}

// What may stand between the double quotes of `key="value"` in a log line, whoever wrote it.
inline std::string log_value(std::string text) {
  std::ranges::replace(text, '"', '\'');
  return one_line(std::move(text));
}

}  // namespace granary::agent
