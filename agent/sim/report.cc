// SPDX-License-Identifier: Apache-2.0
#include "agent/sim/report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace granary::sim {
namespace {

using nlohmann::json;

template <class... Values>
std::string format(const char* pattern, Values... values) {
  char text[512];
  std::snprintf(text, sizeof(text), pattern, values...);
  return text;
}

double gib_hours(const Outcome& outcome, const Node& node) {
  return outcome.clone_seconds * static_cast<double>(node.clone_bytes) / (1ULL << 30) / 3600;
}

std::string row(const Outcome& o, const Node& node, const char* mark) {
  return format("%-12s %9.3f %9llu %9.3f %9.3f %9.3f %9.2f %10.2f %9llu %8llu%s\n", o.name.c_str(), 100 * o.hit_rate(),
                static_cast<unsigned long long>(o.misses()), o.wait_p99, o.wait_p999, o.wait_max, o.mean_idle(),
                gib_hours(o, node), static_cast<unsigned long long>(o.evictions),
                static_cast<unsigned long long>(o.resizes), mark);
}

// The sizes around what the others do; all of them would be a long table.
bool is_interesting(const Comparison& comparison, const Verdict& verdict, size_t clones) {
  const auto near = [&](double n) { return std::abs(static_cast<double>(clones) - n) <= 2; };
  return clones % 8 == 0 || near(comparison.adaptive.mean_idle()) ||
         (verdict.best_fixed && near(static_cast<double>(*verdict.best_fixed)));
}

std::string in_words(const Comparison& comparison, const Verdict& verdict) {
  std::string text;
  if (verdict.best_fixed) {
    text += format("adaptive takes %.3f times the idle memory of fixed(%zu), the smallest size with %.4g %% hits\n",
                   verdict.memory_ratio, *verdict.best_fixed, 100 * comparison.limits.hit_target);
  } else {
    text +=
        format("no fixed size up to %u has %.4g %% hits\n", comparison.limits.size, 100 * comparison.limits.hit_target);
  }
  text += format("with as much idle memory a fixed size would miss %.0f, adaptive misses %llu (%.3f times)\n",
                 verdict.misses_at_equal_memory, static_cast<unsigned long long>(comparison.adaptive.misses()),
                 verdict.miss_ratio);
  const uint64_t misses = comparison.adaptive.misses();
  text += format("%llu misses no policy of at most %u idle clones could avoid: %.1f %% of adaptive's\n",
                 static_cast<unsigned long long>(verdict.unavoidable), comparison.limits.size,
                 misses > 0
                     ? 100.0 * static_cast<double>(std::min(verdict.unavoidable, misses)) / static_cast<double>(misses)
                     : 0.0);
  return text;
}

json to_object(const Outcome& o, const Node& node) {
  return {{"policy", o.name},
          {"hit_rate", o.hit_rate()},
          {"hits", o.hits},
          {"misses", o.misses()},
          {"wait_seconds", {{"p50", o.wait_p50}, {"p99", o.wait_p99}, {"p999", o.wait_p999}, {"max", o.wait_max}}},
          {"mean_idle_clones", o.mean_idle()},
          {"idle_clone_seconds", o.clone_seconds},
          {"idle_byte_seconds", o.clone_seconds * static_cast<double>(node.clone_bytes)},
          {"evictions", o.evictions},
          {"resizes", o.resizes},
          {"reversals", o.reversals}};
}

}  // namespace

Comparison compare(std::string title, const Trace& trace, const Node& node, const Limits& limits) {
  Comparison comparison{.title = std::move(title), .node = node, .limits = limits};
  for (uint32_t n = 0; n <= limits.size; ++n) {
    comparison.fixed.push_back(simulate(trace, node, fixed_sizer(node, limits, n)));
  }
  adaptive::Policy policy;
  comparison.adaptive = simulate(trace, node, adaptive_sizer(node, limits, policy));
  comparison.autoscaler = simulate(trace, node, autoscaler_sizer(node, limits));
  return comparison;
}

Verdict judge(const Comparison& comparison) {
  Verdict verdict;
  verdict.unavoidable = comparison.fixed.back().misses();
  const Outcome& adaptive = comparison.adaptive;
  const auto best = std::ranges::find_if(
      comparison.fixed, [&](const Outcome& o) { return o.hit_rate() >= comparison.limits.hit_target; });
  if (best != comparison.fixed.end()) {
    verdict.best_fixed = static_cast<size_t>(best - comparison.fixed.begin());
    if (best->clone_seconds > 0) verdict.memory_ratio = adaptive.clone_seconds / best->clone_seconds;
  }
  size_t above = 1;
  while (above < comparison.fixed.size() && comparison.fixed[above].clone_seconds <= adaptive.clone_seconds) ++above;
  const Outcome& below = comparison.fixed[above - 1];
  verdict.misses_at_equal_memory = static_cast<double>(below.misses());
  if (above < comparison.fixed.size()) {
    const Outcome& next = comparison.fixed[above];
    const double between = std::max(next.clone_seconds - below.clone_seconds, 1e-9);
    const double part = std::clamp((adaptive.clone_seconds - below.clone_seconds) / between, 0.0, 1.0);
    const double fewer = static_cast<double>(below.misses()) - static_cast<double>(next.misses());
    verdict.misses_at_equal_memory -= part * fewer;
  }
  const auto misses = static_cast<double>(adaptive.misses());
  verdict.miss_ratio = misses > 0 ? misses / std::max(verdict.misses_at_equal_memory, 1e-9) : 0;
  return verdict;
}

std::string to_table(const Comparison& comparison) {
  const Verdict verdict = judge(comparison);
  std::string text = comparison.title + "\n";
  const Refill& refill = comparison.node.refill;
  text += format("%llu acquires in %.1f h; refills of %.3g s (and %.3g s on average more), %u at a time\n\n",
                 static_cast<unsigned long long>(comparison.adaptive.acquires), comparison.adaptive.seconds / 3600,
                 refill.seconds, refill.spread_seconds, refill.concurrency);
  text += format("%-12s %9s %9s %9s %9s %9s %9s %10s %9s %8s\n", "POLICY", "HITS %", "MISSES", "WAIT P99", "P99.9",
                 "LONGEST", "IDLE", "GiB HOURS", "EVICTED", "RESIZES");
  for (size_t n = 0; n < comparison.fixed.size(); ++n) {
    if (!is_interesting(comparison, verdict, n)) continue;
    text += row(comparison.fixed[n], comparison.node, verdict.best_fixed == n ? "  <- best in hindsight" : "");
  }
  text += row(comparison.autoscaler, comparison.node, "");
  text += row(comparison.adaptive, comparison.node, "");
  return text + "\n" + in_words(comparison, verdict);
}

std::string to_json(const Comparison& comparison) {
  const Verdict verdict = judge(comparison);
  json policies = json::array();
  for (const Outcome& outcome : comparison.fixed) policies.push_back(to_object(outcome, comparison.node));
  policies.push_back(to_object(comparison.autoscaler, comparison.node));
  policies.push_back(to_object(comparison.adaptive, comparison.node));
  const json object = {{"title", comparison.title},
                       {"acquires", comparison.adaptive.acquires},
                       {"seconds", comparison.adaptive.seconds},
                       {"policies", policies},
                       {"verdict",
                        {{"best_fixed", verdict.best_fixed ? json(*verdict.best_fixed) : json()},
                         {"memory_ratio", verdict.memory_ratio},
                         {"misses_at_equal_memory", verdict.misses_at_equal_memory},
                         {"miss_ratio", verdict.miss_ratio},
                         {"unavoidable_misses", verdict.unavoidable}}}};
  return object.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace granary::sim
