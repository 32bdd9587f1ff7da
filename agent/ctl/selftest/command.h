// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "agent/ctl/commands.h"

namespace granary::ctl {

void define_selftest(CLI::App& app, const Globals& globals, Action& action);  // as those of commands.h

}  // namespace granary::ctl
