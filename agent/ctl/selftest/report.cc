// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/report.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "agent/ctl/output.h"

namespace granary::ctl::selftest {
namespace {

using nlohmann::json;

std::string number(double value) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.3f", value);
  std::string cut = text;
  cut.erase(cut.find_last_not_of('0') + 1);
  if (cut.back() == '.') cut.pop_back();
  return cut;
}

std::string seconds_text(double seconds) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.1f s", seconds);
  return text;
}

json rows_of(const Report& report) {
  json rows = json::parse(report.rows, nullptr, false);
  return rows.is_array() ? rows : json::array();
}

// A row is another program's: a member that is missing or of another type is a blank cell.
std::string cell(const json& row, const char* name) {
  const auto at = row.find(name);
  if (at == row.end()) return "";
  if (at->is_string()) return at->get<std::string>();
  return at->is_number() ? number(at->get<double>()) : "";
}

void print_rows(const Report& report, std::ostream& out) {
  const json rows = rows_of(report);
  if (rows.empty()) return;
  Table table({"BENCH ROW", "GUEST", "UNIT", "N", "P50", "P90", "P99", "MAX"});
  for (const json& row : rows) {
    if (!row.is_object()) continue;
    std::vector<std::string> cells;
    for (const char* name : {"name", "guest", "unit", "n", "p50", "p90", "p99", "max"})
      cells.push_back(cell(row, name));
    table.add(std::move(cells));
  }
  out << "\n";
  table.print(out);
}

void print_figures(const Report& report, std::ostream& out) {
  Table table({"FIGURE", "OF STEP", "VALUE"});
  bool any = false;
  for (const StepReport& step : report.steps) {
    for (const Figure& figure : step.figures) {
      table.add({figure.name, step.name, number(figure.value) + " " + figure.unit});
      any = true;
    }
  }
  if (!any) return;
  out << "\n";
  table.print(out);
}

std::string names_of(const Report& report, State state) {
  std::string names;
  for (const StepReport& step : report.steps) {
    if (step.state == state) names += (names.empty() ? "" : ", ") + step.name;
  }
  return names;
}

State state_of(const Outcome& outcome) {
  if (!outcome.failed.empty()) return State::kFailed;
  return outcome.skipped.empty() ? State::kPassed : State::kSkipped;
}

}  // namespace

const char* to_string(State state) {
  switch (state) {
    case State::kPassed:
      return "passed";
    case State::kFailed:
      return "failed";
    case State::kSkipped:
      return "skipped";
  }
  return "unknown";
}

std::string Steps::why_not(const Step& step) const {
  if (interrupted_() && !step.always) return "interrupted";
  if (step.needs.empty()) return "";
  const auto needed = std::ranges::find(report_.steps, step.needs, &StepReport::name);
  if (needed == report_.steps.end()) return step.needs + " was not done";
  if (needed->state == State::kPassed) return "";
  return "step " + step.needs + (needed->state == State::kSkipped ? " was skipped" : " failed");
}

void Steps::run(const Step& step) {
  StepReport done{.name = step.name,
                  .required = step.required,
                  .state = State::kSkipped,
                  .reason = {},
                  .seconds = 0,
                  .figures = {}};
  done.reason = why_not(step);
  if (done.reason.empty()) {
    progress_ << "selftest: " << step.name << " …" << std::endl;
    const auto start = std::chrono::steady_clock::now();
    Result<Outcome> outcome = step.action();
    done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (!outcome) {
      const bool stopped = interrupted_() && !step.always;
      done.state = stopped ? State::kSkipped : State::kFailed;
      done.reason = stopped ? "interrupted" : outcome.error().message();
    } else {
      done.state = state_of(*outcome);
      done.reason = outcome->failed + outcome->skipped + outcome->detail;
      done.figures = std::move(outcome->figures);
      if (!outcome->rows.empty()) report_.rows = std::move(outcome->rows);
    }
  }
  progress_ << "selftest: " << step.name << " " << to_string(done.state) << " in " << seconds_text(done.seconds)
            << (done.reason.empty() ? "" : ": ") << clean(done.reason) << std::endl;
  report_.steps.push_back(std::move(done));
}

int exit_code(const Report& report) {
  const auto any = [&](auto&& of) { return std::ranges::any_of(report.steps, of); };
  if (any([](const StepReport& step) { return step.state == State::kFailed; })) return kExitFailed;
  if (any([](const StepReport& step) { return step.required && step.state == State::kSkipped; })) return kExitUnproven;
  return kExitPassed;
}

std::string verdict(const Report& report) {
  const std::string skipped = names_of(report, State::kSkipped);
  switch (exit_code(report)) {
    case kExitFailed:
      return "failed: " + names_of(report, State::kFailed);
    case kExitUnproven:
      return "unproven, skipped: " + skipped;
    default:
      return skipped.empty() ? "passed" : "passed, but skipped: " + skipped;
  }
}

json to_json(const Report& report) {
  json host = json::object();
  for (const auto& [name, value] : report.host) host[name] = value;
  json steps = json::array();
  for (const StepReport& step : report.steps) {
    json figures = json::array();
    for (const Figure& figure : step.figures) {
      figures.push_back({{"name", figure.name}, {"value", figure.value}, {"unit", figure.unit}});
    }
    steps.push_back({{"name", step.name},
                     {"required", step.required},
                     {"state", to_string(step.state)},
                     {"reason", step.reason},
                     {"seconds", step.seconds},
                     {"figures", std::move(figures)}});
  }
  return {{"host", std::move(host)},
          {"steps", std::move(steps)},
          {"bench", rows_of(report)},
          {"exit_code", exit_code(report)},
          {"verdict", verdict(report)}};
}

void print(const Report& report, std::ostream& out) {
  Table host({"HOST", ""});
  for (const auto& [name, value] : report.host) host.add({name, value});
  host.print(out);
  out << "\n";
  Table steps({"STEP", "STATE", "TIME", "WHY"});
  for (const StepReport& step : report.steps) {
    steps.add({step.name, to_string(step.state), seconds_text(step.seconds), or_dash(step.reason)});
  }
  steps.print(out);
  print_figures(report, out);
  print_rows(report, out);
  out << "\n" << verdict(report) << std::endl;
}

}  // namespace granary::ctl::selftest
