// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "vmpool/base/result.h"

namespace granary::ctl::selftest {

enum class State { kPassed, kFailed, kSkipped };
const char* to_string(State state);

struct Figure {
  std::string name;
  double value = 0;
  std::string unit;
};

// What a step leaves: figures, or why it was not done. `rows` is the JSON array of granary-bench.
struct Outcome {
  std::vector<Figure> figures;
  std::string skipped;
  std::string rows;
  std::string detail;       // of a step that passed: what was seen, in words
  std::string failed = {};  // what went wrong although there is something to report
};
inline Outcome fail(std::string why) {
  return {.figures = {}, .skipped = {}, .rows = {}, .detail = {}, .failed = std::move(why)};
}
inline Outcome skip(std::string why) { return {.figures = {}, .skipped = std::move(why), .rows = {}, .detail = {}}; }

struct Step {
  std::string name;
  bool required = true;                     // skipped, it leaves the node unproven
  std::string needs;                        // an earlier step without which this one cannot be done; empty: none
  std::function<Result<Outcome>()> action;  // an Error: it failed
  bool always = false;                      // also after an interruption
};

struct StepReport {
  std::string name;
  bool required = true;
  State state = State::kSkipped;
  std::string reason;  // why it failed or was skipped, or what a passed one saw
  double seconds = 0;
  std::vector<Figure> figures;
};

// Everything that a self-test says.
struct Report {
  std::vector<std::pair<std::string, std::string>> host;  // facts in their order: version, kernel, CPU …
  std::vector<StepReport> steps;
  std::string rows = "[]";  // granary-bench's figures
};

// Runs steps one after the other, says on `progress` which, and writes down in `report` what came of each. A step that
// throws nothing and returns an Error has failed; the next ones go on unless they need it. Once `interrupted` says so,
// no further step is done but those that are `always`.
class Steps {
 public:
  Steps(Report& report, std::ostream& progress, std::function<bool()> interrupted)
      : report_(report), progress_(progress), interrupted_(std::move(interrupted)) {}
  void run(const Step& step);

 private:
  [[nodiscard]] std::string why_not(const Step& step) const;
  Report& report_;
  std::ostream& progress_;
  std::function<bool()> interrupted_;
};

inline constexpr int kExitPassed = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUnproven = 77;
// kExitFailed when a step failed, else kExitUnproven when a required one was skipped, else kExitPassed.
int exit_code(const Report& report);
// The exit code in words.
std::string verdict(const Report& report);

nlohmann::json to_json(const Report& report);
// For people: facts, steps, figures and benchmark rows as tables, and the verdict.
void print(const Report& report, std::ostream& out);

}  // namespace granary::ctl::selftest
