// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sstream>
#include <string>

#include "vmpool/base/fd.h"

namespace granary::spawn {

// For tests only: the value of a field of a "status" file of /proc (proc(5)), its words separated by single blanks.
inline std::string proc_status_field(const std::string& file, const std::string& name) {
  const std::string text = *read_file(file);
  const size_t at = text.find("\n" + name + ":");
  if (at == std::string::npos) return "no such field";
  std::istringstream line(text.substr(at + name.size() + 2, text.find('\n', at + 1) - at - name.size() - 2));
  std::string value;
  for (std::string word; line >> word;) value += (value.empty() ? "" : " ") + word;
  return value;
}

}  // namespace granary::spawn
