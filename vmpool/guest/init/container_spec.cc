// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/container_spec.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "vmpool/base/container_id.h"

namespace granary::guest {
namespace {

using Json = nlohmann::json;

// The runtime specification nests seven deep; writing JSON recurses.
constexpr int kMostDepth = 32;

Error invalid(const std::string& what) { return {Errc::kInvalidArgument, what}; }

Result<Json> parse(std::string_view text, const char* name) {
  bool too_deep = false;
  const auto look = [&too_deep](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMostDepth;
    return !too_deep;
  };
  Json json = Json::parse(text, look, /*allow_exceptions=*/false);
  if (too_deep) return invalid(std::string(name) + " nests deeper than " + std::to_string(kMostDepth));
  if (json.is_discarded() || !json.is_object()) return invalid(std::string(name) + " is no JSON object");
  return json;
}

// The object of that name, made if it is not there.
Result<Json*> object_in(Json& json, const char* name) {
  Json& inner = json[name];
  if (inner.is_null()) inner = Json::object();
  if (!inner.is_object()) return invalid(std::string("spec: ") + name + " is no object");
  return &inner;
}

// Whether it wants a terminal.
Result<bool> check_process(const Json& process, const std::string& name) {
  const auto args = process.find("args");
  const bool strings = args != process.end() && args->is_array() && !args->empty() &&
                       std::all_of(args->begin(), args->end(), [](const Json& word) { return word.is_string(); });
  if (!strings) return invalid(name + ".args is no list of strings that names a command");
  const auto terminal = process.find("terminal");
  if (terminal == process.end()) return false;
  if (!terminal->is_boolean()) return invalid(name + ".terminal is neither true nor false");
  return terminal->get<bool>();
}

}  // namespace

Status check_container_id(std::string_view id) {
  if (is_id(id)) return ok();
  return invalid("container id \"" + std::string(id.substr(0, kMaxIdBytes)) +
                 "\": allowed are 1 to 128 of the characters a-z A-Z 0-9 _ . -");
}

Result<OciJson> make_container_json(std::string_view spec, const std::string& rootfs, const std::string& cgroups_path) {
  Json json = GRANARY_TRY(parse(spec, "spec"));
  const auto process = json.find("process");
  if (process == json.end() || !process->is_object()) return invalid("spec: process is missing");
  const bool terminal = GRANARY_TRY(check_process(*process, "spec: process"));
  (*GRANARY_TRY(object_in(json, "root")))["path"] = rootfs;
  (*GRANARY_TRY(object_in(json, "linux")))["cgroupsPath"] = cgroups_path;
  return OciJson{json.dump(), terminal};
}

Result<OciJson> make_process_json(std::string_view process, bool terminal) {
  Json json = GRANARY_TRY(parse(process, "process"));
  const bool wanted = GRANARY_TRY(check_process(json, "process"));
  json["terminal"] = terminal || wanted;
  return OciJson{json.dump(), terminal || wanted};
}

}  // namespace granary::guest
