// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/figures.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace granary::bench {
namespace {

double nearest_rank(const std::vector<double>& sorted, unsigned percent) {
  const size_t rank = (sorted.size() * percent + 99) / 100;  // 1-based, rounded up
  return sorted[std::max<size_t>(rank, 1) - 1];
}

// Three decimals at most, without trailing zeros.
std::string number(double value) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.3f", value);
  std::string cut = text;
  cut.erase(cut.find_last_not_of('0') + 1);
  if (cut.back() == '.') cut.pop_back();
  return cut;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string padded(const std::string& text, size_t width) {
  return text.size() < width ? text + std::string(width - text.size(), ' ') : text;
}
// At least one blank before it, also when it is wider than its column.
std::string right(const std::string& text, size_t width) {
  return std::string(text.size() < width ? width - text.size() : 1, ' ') + text;
}

}  // namespace

Percentiles percentiles(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  return {nearest_rank(samples, 50), nearest_rank(samples, 90), nearest_rank(samples, 99), samples.back()};
}

std::string to_table(const std::vector<Row>& rows, const std::string& where) {
  std::string out = padded("row", 24) + padded("where", 6) + padded("guest", 9) + padded("unit", 6) + right("n", 6) +
                    right("p50", 13) + right("p90", 13) + right("p99", 13) + right("max", 13) + "  clock\n";
  for (const Row& row : rows) {
    out += padded(row.name, 24) + padded(where, 6) + padded(row.guest, 9);
    if (row.samples.empty()) {
      out += "skipped: " + row.skipped + '\n';
      continue;
    }
    const Percentiles p = percentiles(row.samples);
    out += padded(row.unit, 6) + right(std::to_string(row.samples.size()), 6);
    for (const double value : {p.p50, p.p90, p.p99, p.max}) out += right(number(value), 13);
    out += "  " + row.clock + '\n';
  }
  return out;
}

std::string to_json(const std::vector<Row>& rows, const std::string& where) {
  std::string objects;
  for (const Row& row : rows) {
    if (row.samples.empty()) continue;
    const Percentiles p = percentiles(row.samples);
    if (!objects.empty()) objects += ",\n";
    objects += "  {\"name\": " + quoted(row.name) + ", \"where\": " + quoted(where) +
               ", \"guest\": " + quoted(row.guest) + ", \"unit\": " + quoted(row.unit) +
               ", \"n\": " + std::to_string(row.samples.size()) + ", \"p50\": " + number(p.p50) +
               ", \"p90\": " + number(p.p90) + ", \"p99\": " + number(p.p99) + ", \"max\": " + number(p.max) +
               ", \"clock\": " + quoted(row.clock) + "}";
  }
  return objects.empty() ? "[]\n" : "[\n" + objects + "\n]\n";
}

}  // namespace granary::bench
