// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/spec_json.h"

#include <algorithm>

#include "agent/shim/oci_spec.h"

namespace granary::shim::spec_json {
namespace {

constexpr int kMaxDepth = 32;
constexpr size_t kShownBytes = 128;

Result<json*> member(json& object, const char* name, json::value_t type) {
  const auto at = object.find(name);
  if (at == object.end() || at->is_null()) return static_cast<json*>(nullptr);
  if (at->type() != type) return invalid(std::string(name) + " is a " + at->type_name());
  return &*at;
}

}  // namespace

std::string shown(const std::string& text) {
  return "\"" + text.substr(0, kShownBytes) + (text.size() > kShownBytes ? "…\"" : "\"");
}
Error invalid(const std::string& what) { return {Errc::kInvalidArgument, "OCI spec: " + what}; }
Error impossible(const std::string& what) { return {Errc::kNotSupported, "OCI spec: " + what}; }

Result<json> parse_object(std::string_view text) {
  if (text.size() > kMaxSpecBytes) {
    return invalid(std::to_string(text.size()) + " bytes; at most " + std::to_string(kMaxSpecBytes));
  }
  bool too_deep = false;
  const auto watch_depth = [&too_deep](int depth, json::parse_event_t /*event*/, json& /*value*/) {
    too_deep = too_deep || depth > kMaxDepth;
    return depth <= kMaxDepth;  // what is deeper is not kept
  };
  json value = json::parse(text, watch_depth, false);
  if (too_deep) return invalid("nested deeper than " + std::to_string(kMaxDepth) + " levels");
  if (value.is_discarded()) return invalid("no JSON");
  if (!value.is_object()) return invalid("no JSON object");
  return value;
}

Result<json*> object_in(json& object, const char* name) { return member(object, name, json::value_t::object); }
Result<json*> array_in(json& object, const char* name) { return member(object, name, json::value_t::array); }

Result<std::string> text_in(json& object, const char* name) {
  const json* value = GRANARY_TRY(member(object, name, json::value_t::string));
  return value == nullptr ? std::string() : value->get<std::string>();
}

Result<bool> flag_in(json& object, const char* name) {
  const json* value = GRANARY_TRY(member(object, name, json::value_t::boolean));
  return value != nullptr && value->get<bool>();
}

Result<uint64_t> number_in(json& object, const char* name) {
  const auto at = object.find(name);
  if (at == object.end() || at->is_null()) return uint64_t{0};
  if (at->is_number_unsigned()) return at->get<uint64_t>();
  if (!at->is_number_integer()) return invalid(std::string(name) + " is no whole number");
  return static_cast<uint64_t>(std::max<int64_t>(at->get<int64_t>(), 0));
}

Result<std::vector<json*>> objects_in(json& object, const char* name) {
  std::vector<json*> result;
  json* array = GRANARY_TRY(array_in(object, name));
  if (array == nullptr) return result;
  for (json& element : *array) {
    if (!element.is_object()) return invalid(std::string("an element of ") + name + " is a " + element.type_name());
    result.push_back(&element);
  }
  return result;
}

void drop(json& object, std::initializer_list<const char*> names) {
  for (const char* name : names) object.erase(name);
}

}  // namespace granary::shim::spec_json
