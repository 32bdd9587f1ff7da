// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/output.h"

#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

namespace granary::ctl {

std::string clean(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

namespace {

// UTF-8 characters, not bytes: continuation bytes take no column.
size_t columns(const std::string& text) {
  return static_cast<size_t>(std::ranges::count_if(text, [](unsigned char c) { return (c & 0xc0) != 0x80; }));
}

struct Scale {
  double factor;
  const char* unit;
};

// With the largest unit that leaves at least 1, three significant digits.
std::string scaled(double value, const Scale* begin, const Scale* end) {
  const Scale* best = begin;
  for (const Scale* scale = begin; scale != end; ++scale) {
    if (value >= scale->factor) best = scale;
  }
  const double shown = value / best->factor;
  const int decimals = best == begin || shown >= 100 ? 0 : (shown >= 10 ? 1 : 2);
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f %s", decimals, shown, best->unit);
  return text;
}

}  // namespace

void Table::print(std::ostream& out) const {
  std::vector<size_t> widths(rows_.front().size());
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], columns(row[i]));
  }
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += clean(row[i]);
      if (i + 1 < row.size()) line += std::string(widths[i] - columns(row[i]) + 2, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out << line << '\n';
  }
}

std::string human_size(uint64_t bytes) {
  static constexpr Scale kScales[] = {{1, "B"},
                                      {1024.0, "KiB"},
                                      {1024.0 * 1024, "MiB"},
                                      {1024.0 * 1024 * 1024, "GiB"},
                                      {1024.0 * 1024 * 1024 * 1024, "TiB"}};
  return scaled(static_cast<double>(bytes), std::begin(kScales), std::end(kScales));
}

std::string human_duration(int64_t nanoseconds) {
  static constexpr Scale kScales[] = {{1, "ns"}, {1e3, "µs"}, {1e6, "ms"}, {1e9, "s"}};
  return scaled(static_cast<double>(std::max<int64_t>(nanoseconds, 0)), std::begin(kScales), std::end(kScales));
}

std::string short_key(const std::string& key) { return or_dash(key.substr(0, 12)); }
std::string or_dash(const std::string& text) { return text.empty() ? "-" : text; }

std::string to_json(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  return status.ok() ? text : "{}";
}

int complain(const Error& error) {
  std::cerr << "granaryctl: " << clean(error.message()) << std::endl;
  return kExitOwnError;
}

}  // namespace granary::ctl
