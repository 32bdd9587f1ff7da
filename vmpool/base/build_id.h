// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/result.h"

namespace granary {

// The build id that the linker put into a program (ELF note NT_GNU_BUILD_ID), as hex digits: it changes with every change of
// the program's code or data, and reading it costs two small reads. ENOEXEC for a file that has none; errno errors name the path.
Result<std::string> read_build_id(const std::string& path);

}  // namespace granary
