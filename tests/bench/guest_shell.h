// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "vmpool/base/result.h"

namespace granary::bench {

// Runs a script with this host's shell; what it printed.
Result<std::string> shell(const std::string& script);
// The same in the guest of a clone that was handed over, with `input` on its standard input.
Result<std::string> shell_in_guest(const std::string& socket_path, const std::string& script,
                                   std::string_view input = "");
// The positive number that a program printed; else an error that says what it printed.
Result<double> figure(const std::string& text);

}  // namespace granary::bench
