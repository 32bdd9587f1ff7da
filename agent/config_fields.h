// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/yaml_tree.h"
#include "netplumb/network_config.h"

namespace granary::agent {

// Where a value stands: for "file:line:column: pools[1].size: …".
struct Place {
  std::string file;
  std::string path;  // "" at the top

  [[nodiscard]] Place key(std::string_view name) const;
  [[nodiscard]] Place index(size_t i) const;
  [[nodiscard]] Error refuse(const YamlNode& node, const std::string& reason) const;
};

// One key of a map: how its value is read. Readers keep a reference to what they fill.
struct Field {
  std::string_view name;
  std::function<Status(const YamlNode&, const Place&)> read;
};

// Reads a map of exactly these keys, each optional. A null node counts as an empty map ("devices:" with nothing below).
Status read_map(const YamlNode& node, const Place& place, const std::vector<Field>& fields);
// Calls `read` for each item of a list.
Status read_list(const YamlNode& node, const Place& place, size_t most,
                 const std::function<Status(const YamlNode&, const Place&)>& read);

// Fields of one type each. Bounds are inclusive.
Field text_field(std::string_view name, std::string& into, size_t most_bytes);
Field path_field(std::string_view name, std::string& into, bool may_be_empty = false);  // absolute
Field address_field(std::string_view name, std::string& into);  // 192.0.2.1:9464, [2001:db8::1]:9464, or empty
Field word_field(std::string_view name, std::string& into, std::vector<std::string_view> allowed);
Field name_field(std::string_view name, std::string& into);  // [a-z0-9] and '-' inside, at most 40 bytes
Field number_field(std::string_view name, uint32_t& into, uint32_t least, uint32_t most);
Field count_field(std::string_view name, uint8_t& into, uint8_t most);
Field switch_field(std::string_view name, std::function<void(bool)> set);  // true or false
// An IPv4 network, "10.0.0.0/8".
Field subnet_field(std::string_view name, netplumb::Prefix& into, uint8_t shortest, uint8_t longest);
// IPv4 addresses.
Field addresses_field(std::string_view name, std::vector<netplumb::IpAddress>& into, size_t most);
// A whole number with KiB, MiB or GiB.
Field size_field(std::string_view name, uint64_t& bytes, uint64_t least, uint64_t most);
Field optional_size_field(std::string_view name, std::optional<uint64_t>& bytes, uint64_t least, uint64_t most);
// "99%", "99.5%": a share from `least` to `most`, with at most two decimals of a percent.
Field share_field(std::string_view name, double& into, double least, double most);
// A whole number with ms, s, m or h.
Field duration_field(std::string_view name, std::chrono::milliseconds& into, std::chrono::milliseconds least,
                     std::chrono::milliseconds most);

// "64 MiB", "10 s": how errors and documents spell sizes and durations that a configuration gave.
std::string spell_size(uint64_t bytes);
std::string spell_duration(std::chrono::milliseconds duration);

}  // namespace granary::agent
