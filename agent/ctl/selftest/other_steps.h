// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "agent/ctl/selftest/child.h"
#include "agent/ctl/selftest/report.h"

namespace granary::ctl::selftest {

// The doctor's checks. Skipped, with the first reason, where no Linux guest can run: that is the host's failure, not
// Granary's.
Result<Outcome> preflight_step(const std::string& kvm);

struct BenchOptions {
  std::string programs;  // folder of granary-bench
  std::string rows;      // comma-separated; empty: all
  unsigned samples = 0;  // of each quick row; 0: granary-bench's own number
  std::string where;     // host or node, what the figures are labelled with
  std::string folder;    // for its files
};
// The rows of `make bench`. Skipped where there is no granary-bench.
Result<Outcome> bench_step(const BenchOptions& options, Interrupt& interrupt);

// One pod under the containerd that listens on `socket`, through its handler "granary", to Ready and away again.
// Skipped where nothing listens, or it has no such handler.
Result<Outcome> pod_step(const std::string& socket);

}  // namespace granary::ctl::selftest
