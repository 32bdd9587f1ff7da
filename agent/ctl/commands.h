// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "agent/ctl/client.h"

namespace CLI {
class App;
}

namespace granary::ctl {

// What the chosen command does; its value is the exit code. An Error becomes kExitOwnError.
using Action = std::function<Result<int>()>;

// Each defines its commands on `app` and, when one of them is chosen on the command line, sets `action`. `globals` and
// `action` outlive the action.
void define_run(CLI::App& app, const Globals& globals, Action& action);       // run
void define_clones(CLI::App& app, const Globals& globals, Action& action);    // acquire, exec, console, release, ls
void define_status(CLI::App& app, const Globals& globals, Action& action);    // status, events
void define_template(CLI::App& app, const Globals& globals, Action& action);  // template ls, build, rm, inspect
void define_flight(CLI::App& app, const Globals& globals, Action& action);    // flight
void define_audit(CLI::App& app, const Globals& globals, Action& action);     // audit
void define_overhead(CLI::App& app, const Globals& globals, Action& action);  // overhead
void define_doctor(CLI::App& app, const Globals& globals, Action& action);    // doctor, version

}  // namespace granary::ctl
