// SPDX-License-Identifier: Apache-2.0
#include "agent/config_fields.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <span>

#include "netplumb/ip_text.h"
#include "vmpool/base/units.h"

namespace granary::agent {
namespace {

struct Unit {
  std::string_view suffix;
  uint64_t factor;
};
constexpr Unit kSizeUnits[] = {{"KiB", kKiB}, {"MiB", kMiB}, {"GiB", kGiB}};
constexpr Unit kDurationUnits[] = {{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}};

std::string quote(const std::string& text) {
  return "\"" + (text.size() > 80 ? text.substr(0, 80) + "…" : text) + "\"";
}

Status want_scalar(const YamlNode& node, const Place& place, const char* wanted) {
  if (node.kind == YamlNode::Kind::kScalar) return ok();
  return place.refuse(node, std::string("wrong type: ") + to_string(node.kind) + "; give " + wanted);
}

// Digits only: no sign, no blank, no octal surprises.
std::optional<uint64_t> whole_number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "10s" -> 10'000 with kDurationUnits. The longest suffix that matches wins ("ms" before "s").
std::optional<uint64_t> number_with_unit(std::string_view text, std::span<const Unit> units) {
  for (const Unit& unit : units) {
    if (!text.ends_with(unit.suffix)) continue;
    const auto number = whole_number(text.substr(0, text.size() - unit.suffix.size()));
    if (!number) continue;
    uint64_t value = 0;
    if (__builtin_mul_overflow(*number, unit.factor, &value)) return std::nullopt;
    return value;
  }
  return std::nullopt;
}

std::string spell(uint64_t value, std::span<const Unit> units) {
  const Unit* best = &units.front();
  for (const Unit& unit : units) {
    if (value != 0 && value % unit.factor == 0) best = &unit;
  }
  return std::to_string(value / best->factor) + std::string(best->suffix);
}

Result<uint64_t> read_number(const YamlNode& node, const Place& place, uint64_t least, uint64_t most) {
  GRANARY_TRY(want_scalar(node, place, "a whole number"));
  const std::string range = std::to_string(least) + " to " + std::to_string(most);
  const auto number = whole_number(node.text);
  if (!number || node.quoted) {
    return place.refuse(node, "wrong type: " + quote(node.text) + "; give a whole number, " + range);
  }
  const uint64_t value = *number;
  if (value < least || value > most) {
    return place.refuse(node, std::to_string(value) + " is out of range; give a whole number, " + range);
  }
  return value;
}

Result<uint64_t> read_quantity(const YamlNode& node, const Place& place, std::span<const Unit> units, uint64_t least,
                               uint64_t most) {
  const std::string wanted = "a whole number with a unit, " + spell(least, units) + " to " + spell(most, units);
  GRANARY_TRY(want_scalar(node, place, wanted.c_str()));
  const auto value = number_with_unit(node.text, units);
  if (!value) return place.refuse(node, "wrong type: " + quote(node.text) + "; give " + wanted);
  if (*value < least || *value > most) return place.refuse(node, node.text + " is out of range; give " + wanted);
  return *value;
}

bool is_name(const std::string& text) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !text.empty() && text.size() <= 40 && plain(text.front()) && plain(text.back()) &&
         std::ranges::all_of(text, [&](char c) { return plain(c) || c == '-'; });
}

// A number, never a host name: what it means must not depend on who answers at start.
bool is_address(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return false;
  const auto port = whole_number(std::string_view(text).substr(colon + 1));
  if (!port || *port > 65535) return false;
  const std::string host = text.substr(0, colon);
  in6_addr parsed{};
  if (host.front() != '[') return ::inet_pton(AF_INET, host.c_str(), &parsed) == 1;
  return host.back() == ']' && ::inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &parsed) == 1;
}

std::string list_of(const auto& values, auto name_of) {
  std::string text;
  for (const auto& value : values) text += (text.empty() ? "" : ", ") + std::string(name_of(value));
  return text;
}

}  // namespace

Place Place::key(std::string_view name) const { return {file, (path.empty() ? "" : path + ".") + std::string(name)}; }
Place Place::index(size_t i) const { return {file, path + "[" + std::to_string(i) + "]"}; }
Error Place::refuse(const YamlNode& node, const std::string& reason) const {
  return yaml_error(file, node.line, node.column, path.empty() ? reason : path + ": " + reason);
}

Status read_map(const YamlNode& node, const Place& place, const std::vector<Field>& fields) {
  if (node.kind == YamlNode::Kind::kNull) return ok();
  const std::string known = list_of(fields, [](const Field& field) { return field.name; });
  if (node.kind != YamlNode::Kind::kMap) {
    return place.refuse(node, std::string("wrong type: ") + to_string(node.kind) + "; give a map of " + known);
  }
  for (const auto& [key, value] : node.entries) {
    const auto field = std::ranges::find(fields, key.text, &Field::name);
    if (field == fields.end()) return place.refuse(key, "unknown key " + quote(key.text) + "; known here: " + known);
    GRANARY_TRY(field->read(value, place.key(field->name)));
  }
  return ok();
}

Status read_list(const YamlNode& node, const Place& place, size_t most,
                 const std::function<Status(const YamlNode&, const Place&)>& read) {
  if (node.kind != YamlNode::Kind::kSequence) {
    return place.refuse(node, std::string("wrong type: ") + to_string(node.kind) + "; give a list");
  }
  if (node.items.empty() || node.items.size() > most) {
    return place.refuse(node, std::to_string(node.items.size()) + " items; give 1 to " + std::to_string(most));
  }
  for (size_t i = 0; i < node.items.size(); ++i) GRANARY_TRY(read(node.items[i], place.index(i)));
  return ok();
}

Field text_field(std::string_view name, std::string& into, size_t most_bytes) {
  return {name, [&into, most_bytes](const YamlNode& node, const Place& place) -> Status {
            GRANARY_TRY(want_scalar(node, place, "a text"));
            if (node.text.size() > most_bytes) {
              return place.refuse(
                  node, std::to_string(node.text.size()) + " bytes; give at most " + std::to_string(most_bytes));
            }
            into = node.text;
            return ok();
          }};
}

Field path_field(std::string_view name, std::string& into, bool may_be_empty) {
  return {name, [&into, may_be_empty](const YamlNode& node, const Place& place) -> Status {
            GRANARY_TRY(want_scalar(node, place, "an absolute path"));
            const bool none = may_be_empty && node.text.empty();
            if (!none && (!node.text.starts_with('/') || node.text.size() > 4000)) {
              return place.refuse(node, quote(node.text) + " is not an absolute path; start it with /");
            }
            into = node.text;
            return ok();
          }};
}

Field address_field(std::string_view name, std::string& into) {
  return {name, [&into](const YamlNode& node, const Place& place) -> Status {
            constexpr const char* kWanted =
                "an IP address and a port, such as 127.0.0.1:9464 or [::1]:9464, or \"\" for none";
            GRANARY_TRY(want_scalar(node, place, kWanted));
            if (!node.text.empty() && !is_address(node.text)) {
              return place.refuse(node, quote(node.text) + " is no address; give " + kWanted);
            }
            into = node.text;
            return ok();
          }};
}

Field word_field(std::string_view name, std::string& into, std::vector<std::string_view> allowed) {
  return {name, [&into, allowed = std::move(allowed)](const YamlNode& node, const Place& place) -> Status {
            const std::string wanted = "one of " + list_of(allowed, [](std::string_view word) { return word; });
            GRANARY_TRY(want_scalar(node, place, wanted.c_str()));
            if (std::ranges::find(allowed, node.text) == allowed.end()) {
              return place.refuse(node, quote(node.text) + " is unknown; give " + wanted);
            }
            into = node.text;
            return ok();
          }};
}

Field name_field(std::string_view name, std::string& into) {
  return {name, [&into](const YamlNode& node, const Place& place) -> Status {
            constexpr const char* kWanted = "1 to 40 of a-z, 0-9 and - (not first or last)";
            GRANARY_TRY(want_scalar(node, place, kWanted));
            if (!is_name(node.text)) return place.refuse(node, quote(node.text) + " is not a name; give " + kWanted);
            into = node.text;
            return ok();
          }};
}

Field number_field(std::string_view name, uint32_t& into, uint32_t least, uint32_t most) {
  return {name, [&into, least, most](const YamlNode& node, const Place& place) -> Status {
            into = static_cast<uint32_t>(GRANARY_TRY(read_number(node, place, least, most)));
            return ok();
          }};
}

Field count_field(std::string_view name, uint8_t& into, uint8_t most) {
  return {name, [&into, most](const YamlNode& node, const Place& place) -> Status {
            into = static_cast<uint8_t>(GRANARY_TRY(read_number(node, place, 0, most)));
            return ok();
          }};
}

Field switch_field(std::string_view name, std::function<void(bool)> set) {
  return {name, [set = std::move(set)](const YamlNode& node, const Place& place) -> Status {
            GRANARY_TRY(want_scalar(node, place, "true or false"));
            if (node.quoted || (node.text != "true" && node.text != "false")) {
              return place.refuse(node, "wrong type: " + quote(node.text) + "; give true or false");
            }
            set(node.text == "true");
            return ok();
          }};
}

Field subnet_field(std::string_view name, netplumb::Prefix& into, uint8_t shortest, uint8_t longest) {
  return {name, [&into, shortest, longest](const YamlNode& node, const Place& place) -> Status {
            GRANARY_TRY(want_scalar(node, place, "an IPv4 network"));
            const auto prefix = netplumb::parse_prefix(node.text);
            if (!prefix) return place.refuse(node, prefix.error().context());
            if (prefix->address.v6 || prefix->length < shortest || prefix->length > longest) {
              return place.refuse(node, quote(node.text) + "; give an IPv4 network of /" + std::to_string(shortest) +
                                            " to /" + std::to_string(longest));
            }
            into = *prefix;
            return ok();
          }};
}

Field addresses_field(std::string_view name, std::vector<netplumb::IpAddress>& into, size_t most) {
  return {name, [&into, most](const YamlNode& node, const Place& place) -> Status {
            into.clear();
            return read_list(node, place, most, [&](const YamlNode& item, const Place& at) -> Status {
              GRANARY_TRY(want_scalar(item, at, "an IPv4 address"));
              const auto address = netplumb::parse_address(item.text);
              if (!address || address->v6) return at.refuse(item, quote(item.text) + "; give an IPv4 address");
              into.push_back(*address);
              return ok();
            });
          }};
}

Field size_field(std::string_view name, uint64_t& bytes, uint64_t least, uint64_t most) {
  return {name, [&bytes, least, most](const YamlNode& node, const Place& place) -> Status {
            bytes = GRANARY_TRY(read_quantity(node, place, kSizeUnits, least, most));
            return ok();
          }};
}

Field share_field(std::string_view name, double& into, double least, double most) {
  return {name, [=, &into](const YamlNode& node, const Place& place) -> Status {
            const auto percent = [](double share) {
              const auto hundredths = std::lround(share * 10'000);
              const std::string digits = std::to_string(100 + hundredths % 100).substr(1);
              return std::to_string(hundredths / 100) + (hundredths % 100 != 0 ? "." + digits : "") + "%";
            };
            const std::string wanted =
                "a percentage with at most two decimals, " + percent(least) + " to " + percent(most);
            GRANARY_TRY(want_scalar(node, place, wanted.c_str()));
            const size_t point = std::min(node.text.find('.'), node.text.size());
            std::string_view text = node.text;
            const bool has_sign = text.ends_with('%');
            if (has_sign) text.remove_suffix(1);
            std::string decimals(point < text.size() ? text.substr(point + 1) : "0");
            const bool fits = has_sign && !decimals.empty() && decimals.size() <= 2;
            decimals.resize(2, '0');
            const auto whole = whole_number(text.substr(0, point));
            const auto hundredths = whole_number(decimals);
            if (!fits || !whole || !hundredths || *whole > 100) {
              return place.refuse(node, "wrong type: " + quote(node.text) + "; give " + wanted);
            }
            const double share = static_cast<double>(*whole * 100 + *hundredths) / 10'000;
            if (share < least || share > most)
              return place.refuse(node, node.text + " is out of range; give " + wanted);
            into = share;
            return ok();
          }};
}

Field optional_size_field(std::string_view name, std::optional<uint64_t>& bytes, uint64_t least, uint64_t most) {
  return {name, [&bytes, least, most](const YamlNode& node, const Place& place) -> Status {
            bytes = GRANARY_TRY(read_quantity(node, place, kSizeUnits, least, most));
            return ok();
          }};
}

Field duration_field(std::string_view name, std::chrono::milliseconds& into, std::chrono::milliseconds least,
                     std::chrono::milliseconds most) {
  return {name, [&into, least, most](const YamlNode& node, const Place& place) -> Status {
            const uint64_t ms =
                GRANARY_TRY(read_quantity(node, place, kDurationUnits, static_cast<uint64_t>(least.count()),
                                          static_cast<uint64_t>(most.count())));
            into = std::chrono::milliseconds(ms);
            return ok();
          }};
}

std::string spell_size(uint64_t bytes) { return spell(bytes, kSizeUnits); }
std::string spell_duration(std::chrono::milliseconds duration) {
  return spell(static_cast<uint64_t>(duration.count()), kDurationUnits);
}

}  // namespace granary::agent
