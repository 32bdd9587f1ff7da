// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "agent/ctl/selftest/interrupt.h"
#include "agent/ctl/selftest/report.h"

namespace granary::ctl::selftest {

struct Options {
  bool hardware = false;  // nothing is done unless KVM here is hardware's
  std::string guest;      // folder of vmlinuz and initramfs.cpio
  std::string programs;   // folder of granaryd and the others
  std::string kvm = "/dev/kvm";
  bool skip_preflight = false;
  unsigned clones = 100;
  int64_t park_seconds = 120;
  std::string bench_rows;
  unsigned bench_samples = 0;  // of each quick row; 0: granary-bench's own number
  std::string containerd = "/run/containerd/containerd.sock";
  std::string report;  // folder for selftest.json and selftest.txt; empty: neither is written
};

// All the steps. An Error when it could not even begin.
Result<Report> run(const Options& options, Interrupt& interrupt, std::ostream& progress);

}  // namespace granary::ctl::selftest
