// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "vmpool/base/result.h"

// Reads OCI runtime specifications, which are hostile: size, depth and every type are checked, and what is wrong is
// kInvalidArgument that names it. For the .cc files of this folder alone: nlohmann's header is in no other.
namespace granary::shim::spec_json {

using nlohmann::json;

// A hostile text in an error.
std::string shown(const std::string& text);
Error invalid(const std::string& what);
Error impossible(const std::string& what);  // kNotSupported

// At most kMaxSpecBytes and 32 levels.
Result<json> parse_object(std::string_view text);
// A member of an object: nullptr when it is absent or null.
Result<json*> object_in(json& object, const char* name);
Result<json*> array_in(json& object, const char* name);
// The elements of an array, each of which must be an object; none when it is absent or null.
Result<std::vector<json*>> objects_in(json& object, const char* name);
// Empty, false, 0 when it is absent or null. A number that is negative (no limit) is 0, too.
Result<std::string> text_in(json& object, const char* name);
Result<bool> flag_in(json& object, const char* name);
Result<uint64_t> number_in(json& object, const char* name);
void drop(json& object, std::initializer_list<const char*> names);

}  // namespace granary::shim::spec_json
