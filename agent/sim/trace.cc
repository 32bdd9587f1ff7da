// SPDX-License-Identifier: Apache-2.0
#include "agent/sim/trace.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

namespace granary::sim {
namespace {

constexpr size_t kMostLineBytes = 256;
constexpr double kMostStamp = 1e12;

Error wrong(const std::string& name, size_t line, const std::string& why) {
  return {Errc::kInvalidArgument, name + ":" + std::to_string(line) + ": " + why};
}

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

template <class Number>
std::optional<Number> number_of(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool is_header(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == ',' || c == ' ' || c == '"';
  });
}

class Parser {
 public:
  Parser(const std::string& name, size_t most_acquires) : name_(name), most_acquires_(most_acquires) {}

  Status line(size_t number, std::string_view text) {
    if (text.size() > kMostLineBytes)
      return wrong(name_, number, "longer than 256 bytes; give SECONDS or SECONDS,COUNT");
    text = trimmed(text);
    if (text.empty() || text.front() == '#') return ok();
    const size_t comma = std::min(text.find(','), text.size());
    const auto stamp = number_of<double>(trimmed(text.substr(0, comma)));
    if (!stamp && trace_.empty() && !seen_header_ && is_header(text)) {
      seen_header_ = true;
      return ok();
    }
    if (!stamp || !std::isfinite(*stamp) || *stamp < 0 || *stamp > kMostStamp) {
      return wrong(name_, number, "no time; give seconds from 0 to 1e12, such as 12.5 or 12.5,3");
    }
    const auto count =
        comma == text.size() ? std::optional<uint64_t>(1) : number_of<uint64_t>(trimmed(text.substr(comma + 1)));
    if (!count) return wrong(name_, number, "no count after the comma; give a whole number");
    return add(number, *stamp, *count);
  }
  Result<Trace> take(size_t lines) {
    if (trace_.empty()) return wrong(name_, lines, "no acquire in the whole trace; give at least one line");
    return std::move(trace_);
  }

 private:
  Status add(size_t number, double stamp, uint64_t count) {
    if (stamp < last_) return wrong(name_, number, "earlier than the line before; sort the trace by time");
    if (stamp - first_.value_or(stamp) > kMostSeconds) {
      return wrong(name_, number, "more than 366 days after the first; are these seconds?");
    }
    if (count > most_acquires_ - trace_.size()) {
      return wrong(name_, number, "more than " + std::to_string(most_acquires_) + " acquires; give a shorter trace");
    }
    last_ = stamp;
    if (count == 0) return ok();
    if (!first_) first_ = stamp;
    trace_.insert(trace_.end(), count, stamp - *first_);
    return ok();
  }

  const std::string& name_;
  const size_t most_acquires_;
  Trace trace_;
  std::optional<double> first_;
  double last_ = 0;
  bool seen_header_ = false;
};

}  // namespace

Result<Trace> parse_trace(std::istream& text, const std::string& name, size_t most_acquires) {
  Parser parser(name, most_acquires);
  size_t number = 0;
  // By hand: getline would take a line of any length into memory. A line that is too long may have no end.
  std::string line;
  for (int c = text.get(); c != std::istream::traits_type::eof(); c = text.get()) {
    if (c == '\n') {
      GRANARY_TRY(parser.line(++number, line));
      line.clear();
      continue;
    }
    line.push_back(static_cast<char>(c));
    if (line.size() > kMostLineBytes) return parser.line(number + 1, line).error();
  }
  if (text.bad()) return wrong(name, number + 1, "cannot be read");
  if (!line.empty()) GRANARY_TRY(parser.line(++number, line));
  return parser.take(std::max<size_t>(number, 1));
}

}  // namespace granary::sim
