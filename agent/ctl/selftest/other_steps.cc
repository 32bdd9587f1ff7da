// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/other_steps.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "agent/ctl/selftest/stage.h"
#include "vmpool/kvm/preflight.h"

namespace granary::ctl::selftest {
namespace {

// The row under way is finished, so that it takes down what it made.
constexpr std::chrono::seconds kRowLimit{120};
constexpr size_t kMaxRowsBytes = size_t{4} << 20;
constexpr size_t kMaxWords = 2000;

// Rows of granary-bench's table that were not measured, and why.
std::string skipped_rows(const std::string& path) {
  constexpr std::string_view kMark = " skipped: ";
  const Result<std::string> text = read_file(path, kMaxRowsBytes);
  std::istringstream lines(text ? *text : "");
  std::string all;
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find(kMark);
    if (at == std::string::npos) continue;
    all += "; no " + line.substr(0, line.find(' ')) + " (" + line.substr(at + kMark.size()) + ")";
  }
  return all.substr(0, kMaxWords);
}

// What granary-bench says of rows that failed; without any, its last line.
std::string complaints(const std::string& path) {
  const Result<std::string> text = read_file(path, kMaxRowsBytes);
  std::istringstream lines(text ? *text : "");
  std::string all;
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) last = line;
    if (line.find(" failed: ") != std::string::npos) all += (all.empty() ? "" : "; ") + line;
  }
  return (all.empty() ? last : all).substr(0, kMaxWords);
}

}  // namespace

Result<Outcome> preflight_step(const std::string& kvm) {
  const std::vector<kvm::Check> checks = kvm::run_preflight(kvm);
  if (!kvm::can_run_linux(checks)) return skip(kvm::one_line_verdict(checks));
  std::string degraded;
  for (const kvm::Check& check : checks) {
    if (check.verdict == kvm::Check::Verdict::kDegraded)
      degraded += (degraded.empty() ? "degraded: " : "; ") + check.name + " (" + check.detail + ")";
  }
  return Outcome{
      .figures = {{"checks", static_cast<double>(checks.size()), ""}}, .skipped = {}, .rows = {}, .detail = degraded};
}

Result<Outcome> bench_step(const BenchOptions& options, Interrupt& interrupt) {
  const std::string program = options.programs + "/granary-bench";
  if (::access(program.c_str(), X_OK) != 0)
    return skip(program + " is not there: it is built in a clone of the repository (make selftest)");
  const std::string output = options.folder + "/bench.json";
  const std::string errors = options.folder + "/bench.log";
  std::vector<std::string> argv = {program, "--output", "-", "--where", options.where};
  if (!options.rows.empty()) argv.insert(argv.end(), {"--rows", options.rows});
  if (options.samples > 0) argv.insert(argv.end(), {"--n", std::to_string(options.samples)});
  Child bench =
      GRANARY_TRY(Child::start(argv, {"TMPDIR=" + options.folder, "GRANARY_BENCH_CGROUP_PARENT=" + stage_cgroup()},
                               {.output = output, .errors = errors}));
  const std::optional<int> code = bench.wait(interrupt);
  if (!code) {
    bench.end(kRowLimit, interrupt);
    return Error::from_errno(EINTR, "granary-bench");
  }
  std::string rows = GRANARY_TRY(read_file(output, kMaxRowsBytes));
  const nlohmann::json parsed = nlohmann::json::parse(rows, nullptr, false);
  if (!parsed.is_array()) {
    return fail("granary-bench ended with code " + std::to_string(*code) + ": " + complaints(errors));
  }
  Outcome outcome{.figures = {}, .skipped = {}, .rows = std::move(rows), .detail = {}};
  outcome.detail = std::to_string(parsed.size()) + " figures" + skipped_rows(errors);
  if (*code != 0) outcome.failed = "code " + std::to_string(*code) + ": " + complaints(errors) + "; else ";
  return outcome;
}

}  // namespace granary::ctl::selftest
