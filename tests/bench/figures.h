// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace granary::bench {

// Percentiles by nearest rank: the smallest sample that at least p percent of all samples do not exceed. No
// interpolation, so each figure is one that was measured.
struct Percentiles {
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double max = 0;
};
// Of at least one sample.
Percentiles percentiles(std::vector<double> samples);

// One line of the result. Figures when `samples` is not empty, else `skipped` says why there are none.
struct Row {
  std::string name;
  std::string guest;  // tiny, minimal, distro, none
  std::string unit;   // us, ms, s, MiB, 1/s, ratio, count
  std::string clock;  // what it starts and stops on, and the number of devices
  std::vector<double> samples;
  std::string skipped;
};

// For people; skipped rows with their reasons.
std::string to_table(const std::vector<Row>& rows, const std::string& where);
// The array of figures, one object a line. Skipped rows are no figures and are left out.
std::string to_json(const std::vector<Row>& rows, const std::string& where);

}  // namespace granary::bench
