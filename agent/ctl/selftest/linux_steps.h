// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "agent/ctl/selftest/report.h"
#include "agent/ctl/selftest/stage.h"

namespace granary::ctl::selftest {

// Each on the self-test's own agent.
// A 2-vCPU template and two clones of it; in one of them both CPUs work, exit codes arrive and the clocks are right.
Result<Outcome> template_step(Stage& stage);
// A clone that stood parked for `time`: its wall clock is right, the park does not show in its uptime, its kernel
// complains of nothing.
Result<Outcome> park_step(Stage& stage, Interrupt& interrupt, std::chrono::seconds time);
// `count` clones at once that differ in all that identity_script() prints and have the host's time. Skipped where
// memory is short.
Result<Outcome> identity_step(Stage& stage, Interrupt& interrupt, unsigned count);

}  // namespace granary::ctl::selftest
