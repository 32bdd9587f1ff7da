// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "vmpool/base/result.h"

namespace granary::agent {

struct YamlEntry;

// One node of a YAML document, with the place it was read from.
struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMap };
  Kind kind = Kind::kNull;
  int line = 1;  // both count from 1
  int column = 1;
  bool quoted = false;             // scalar: "4" and 4 are different types
  std::string text;                // scalar
  std::vector<YamlNode> items;     // sequence
  std::vector<YamlEntry> entries;  // map, in the file's order; keys are scalars and differ
};
struct YamlEntry {
  YamlNode key;
  YamlNode value;
};
const char* to_string(YamlNode::Kind kind);

// Limits of a document: it is hostile input like any other.
inline constexpr size_t kMaxYamlBytes = 256 * 1024;
inline constexpr size_t kMaxYamlNodes = 16 * 1024;
inline constexpr size_t kMaxYamlDepth = 16;

// Parses one YAML document. `name` is what errors call it: kConfigInvalid, "name:line:column: reason; remedy". Refused,
// besides broken YAML: a duplicate key, a key that is no scalar, a second document, anchors, aliases and tags (a
// configuration needs none, and aliases are how a small file becomes a big one), and anything over the limits.
Result<YamlNode> parse_yaml(std::string_view text, const std::string& name);

// kConfigInvalid at a place.
Error yaml_error(const std::string& name, int line, int column, const std::string& reason);

}  // namespace granary::agent
