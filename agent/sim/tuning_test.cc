// SPDX-License-Identifier: Apache-2.0
// The figures of docs/tuning.md are granary-sim's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "agent/sim/generate.h"
#include "agent/sim/report.h"

namespace granary::sim {
namespace {

using testing::HasSubstr;

// Rows of the guide's table of figures, each beginning with the arguments of granary-sim.
std::vector<std::string> rows() {
  std::ifstream guide(GRANARY_TUNING);
  std::vector<std::string> all;
  for (std::string line; std::getline(guide, line);)
    if (line.starts_with("| `") && line.find(" --rate ") != std::string::npos) all.push_back(line);
  return all;
}

// "steady --rate 1 --hours 72 --refill-concurrency 8", as granary-sim takes them after --pattern.
Comparison compare_as(const std::string& arguments) {
  std::istringstream words(arguments);
  Pattern pattern;
  Node node;
  words >> pattern.kind;
  for (std::string option; words >> option;) {
    if (option == "--rate") words >> pattern.rate;
    if (option == "--hours") words >> pattern.hours;
    if (option == "--refill-concurrency") words >> node.refill.concurrency;
  }
  return compare(pattern.kind, *generate(pattern), node, {});
}

std::string text(const char* format, double value) {
  std::array<char, 64> buffer;
  std::snprintf(buffer.data(), buffer.size(), format, value);
  return buffer.data();
}

TEST(TuningTest, TheGuidesFiguresAreTheSimulators) {
  ASSERT_EQ(rows().size(), 6U);
  for (const std::string& row : rows()) {
    const Comparison comparison = compare_as(row.substr(3, row.find('`', 3) - 3));
    const Verdict verdict = judge(comparison);
    const Outcome& adaptive = comparison.adaptive;
    EXPECT_THAT(row, HasSubstr("| " + text("%.2f %%", 100 * adaptive.hit_rate()) + " |"));
    EXPECT_THAT(row, HasSubstr(text("%.1f %%", 100 * comparison.autoscaler.hit_rate())));
    EXPECT_THAT(row, HasSubstr(text("%.2f", verdict.miss_ratio)));
    EXPECT_THAT(row,
                HasSubstr(verdict.best_fixed ? "| " + std::to_string(*verdict.best_fixed) + " |" : "none up to 64"));
    if (verdict.best_fixed) {
      EXPECT_THAT(row, HasSubstr("| " + text("%.3f", verdict.memory_ratio) + " |"));
    }
  }
}

}  // namespace
}  // namespace granary::sim
