// SPDX-License-Identifier: Apache-2.0
// granary-sim: how sizing policies would have served a trace of acquires.
#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>

#include "agent/sim/generate.h"
#include "agent/sim/report.h"

namespace granary::sim {
namespace {

struct Options {
  std::string trace_file;
  Pattern pattern;
  Node node;
  Limits limits;
  double hit_percent = 99;
  uint64_t clone_mib = 16;
  double budget_mib = -1;
  std::string output = "table";
  std::string plot_file;
  std::string write_file;
};

void define(CLI::App& app, Options& o) {
  app.add_option("--trace", o.trace_file, "CSV of acquires, SECONDS[,COUNT] a line; - for standard input")
      ->group("Trace");
  app.add_option("--pattern", o.pattern.kind, "without --trace: steady, diurnal, bursty, cron or heavy-tailed")
      ->group("Trace");
  app.add_option("--rate", o.pattern.rate, "acquires per second on average")->group("Trace");
  app.add_option("--hours", o.pattern.hours, "how long")->group("Trace");
  app.add_option("--seed", o.pattern.seed, "another one gives another trace")->group("Trace");
  app.add_option("--write-trace", o.write_file, "also writes the trace as CSV")->group("Trace");
  Refill& refill = o.node.refill;
  const auto positive = CLI::Range(1e-4, 3600.0);
  app.add_option("--refill-seconds", refill.seconds, "a refill takes at least")->check(positive)->group("Node");
  app.add_option("--refill-spread", refill.spread_seconds, "and on average so much more, exponentially")
      ->check(CLI::Range(0.0, 3600.0))
      ->group("Node");
  app.add_option("--refill-concurrency", refill.concurrency, "refills at a time")
      ->check(CLI::Range(1, 64))
      ->group("Node");
  app.add_option("--hang-percent", refill.hang_percent, "refills that never complete")
      ->check(CLI::Range(0.0, 99.0))
      ->group("Node");
  app.add_option("--probe-timeout", refill.timeout_seconds, "after so many seconds they are given up")
      ->check(positive)
      ->group("Node");
  app.add_option("--tick", o.node.tick_seconds, "seconds between two looks of the sizer")
      ->check(CLI::Range(0.01, 3600.0))
      ->group("Node");
  app.add_option("--clone-mib", o.clone_mib, "memory of an idle clone")->check(CLI::Range(1, 1 << 20))->group("Node");
  app.add_option("--min", o.limits.min, "as in the pool's configuration")->check(CLI::Range(0, 4096))->group("Pool");
  app.add_option("--size", o.limits.size, "as in the pool's configuration")->check(CLI::Range(0, 4096))->group("Pool");
  app.add_option("--hit-target", o.hit_percent, "percent, as in the pool's configuration")
      ->check(CLI::Range(50.0, 99.99))
      ->group("Pool");
  app.add_option("--memory-budget-mib", o.budget_mib, "of idle clones")->check(CLI::Range(0.0, 1e9))->group("Pool");
  app.add_option("--output", o.output, "table or json")->check(CLI::IsMember({"table", "json"}));
  app.add_option("--plot", o.plot_file, "writes an SVG");
}

std::string title_of(const Options& o) {
  if (!o.trace_file.empty()) return o.trace_file;
  char text[128];
  std::snprintf(text, sizeof(text), "%s, %.4g acquires/s, %.4g h, seed %llu", o.pattern.kind.c_str(), o.pattern.rate,
                o.pattern.hours, static_cast<unsigned long long>(o.pattern.seed));
  return text;
}

Result<Trace> trace_of(const Options& o) {
  if (o.trace_file.empty()) return generate(o.pattern);
  if (o.trace_file == "-") return parse_trace(std::cin, "standard input");
  std::ifstream file(o.trace_file);
  if (!file) return Error::last_os_error("open " + o.trace_file);
  return parse_trace(file, o.trace_file);
}

Status write(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) return Error::last_os_error("write " + path);
  return ok();
}

std::string to_csv(const Trace& trace) {
  std::string text = "seconds\n";
  char line[40];
  for (const double t : trace) {
    std::snprintf(line, sizeof(line), "%.6f\n", t);
    text += line;
  }
  return text;
}

Status run(Options& o) {
  if (o.limits.min > o.limits.size) {
    return Error(Errc::kInvalidArgument, "--min " + std::to_string(o.limits.min) + " is more than --size " +
                                             std::to_string(o.limits.size) + "; lower one or raise the other");
  }
  o.limits.hit_target = o.hit_percent / 100;
  o.node.clone_bytes = o.clone_mib << 20;
  if (o.budget_mib >= 0) o.limits.memory_budget = static_cast<uint64_t>(o.budget_mib * (1 << 20));
  if (o.limits.memory_budget && *o.limits.memory_budget < o.node.clone_bytes) {
    std::cerr << "granary-sim: a memory budget smaller than one clone: no policy can keep any\n";
  }
  const Trace trace = GRANARY_TRY(trace_of(o));
  if (!o.write_file.empty()) GRANARY_TRY(write(o.write_file, to_csv(trace)));
  const Comparison comparison = compare(title_of(o), trace, o.node, o.limits);
  std::cout << (o.output == "json" ? to_json(comparison) : to_table(comparison));
  if (!o.plot_file.empty()) GRANARY_TRY(write(o.plot_file, to_plot(comparison, trace)));
  return ok();
}

}  // namespace
}  // namespace granary::sim

int main(int argc, char** argv) {
  CLI::App app(
      "Lets every sizing policy live through the same acquires: each fixed size, the agent's adaptive one, and an "
      "autoscaler.");
  app.name("granary-sim");
  app.set_version_flag("--version", GRANARY_VERSION);
  granary::sim::Options options;
  define(app, options);
  CLI11_PARSE(app, argc, argv);
  const granary::Status ran = granary::sim::run(options);
  if (!ran) std::cerr << "granary-sim: " << ran.error().message() << "\n";
  return ran ? 0 : 1;
}
