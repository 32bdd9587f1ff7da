// SPDX-License-Identifier: Apache-2.0
#include "agent/cgroup_path.h"

#include <algorithm>
#include <string_view>

#include "agent/log_text.h"

namespace granary::agent {
namespace {

constexpr size_t kMaxBytes = 1024;
constexpr size_t kMaxNameBytes = 255;
constexpr std::string_view kSlice = ".slice";

Error refuse(const std::string& text, const std::string& why) {
  return {Errc::kInvalidArgument, "cgroup_parent \"" + ascii(one_line(text.substr(0, 200))) + "\": " + why +
                                      "; give the pod's cgroup, as \"/kubepods/burstable/pod1234\" or "
                                      "\"kubepods-burstable-pod1234.slice:prefix:name\""};
}

// As systemd nests slices: each '-' is a level. Nothing for what is no slice's name.
std::optional<std::string> expand_slice(const std::string& slice) {
  if (!slice.ends_with(kSlice)) return std::nullopt;
  const std::string stem = slice.substr(0, slice.size() - kSlice.size());
  if (stem.empty() || stem.starts_with('-') || stem.ends_with('-')) return std::nullopt;
  if (stem.find("--") != std::string::npos) return std::nullopt;
  std::string path;
  for (size_t dash = stem.find('-'); dash != std::string::npos; dash = stem.find('-', dash + 1)) {
    path += "/" + stem.substr(0, dash) + std::string(kSlice);
  }
  return path + "/" + slice;
}

Status check_component(const std::string& text, const std::string& name) {
  if (name.empty()) return refuse(text, "an empty path component");
  if (name == "." || name == "..") return refuse(text, "\".\" and \"..\" are not allowed");
  if (name.size() > kMaxNameBytes) return refuse(text, "a path component of more than 255 bytes");
  return ok();
}

}  // namespace

Result<std::string> parse_cgroup_parent(const std::string& text) {
  if (text.size() > kMaxBytes) return refuse(text, std::to_string(text.size()) + " bytes, more than 1024");
  const auto printable = [](unsigned char c) { return c > 0x20 && c < 0x7f; };
  if (!std::ranges::all_of(text, printable)) return refuse(text, "blanks, control or non-ASCII characters");
  std::string path = text;
  if (!text.starts_with('/')) {
    const size_t colon = text.find(':');
    if (colon == std::string::npos || std::ranges::count(text, ':') != 2 || text.find('/') != std::string::npos) {
      return refuse(text, "neither an absolute path nor slice:prefix:name");
    }
    const std::optional<std::string> expanded = expand_slice(text.substr(0, colon));
    if (!expanded) return refuse(text, "no slice before the first ':'");
    path = *expanded;
  }
  for (size_t from = 0; from != std::string::npos;) {
    const size_t next = path.find('/', from + 1);
    GRANARY_TRY(check_component(text, path.substr(from + 1, next == std::string::npos ? next : next - from - 1)));
    from = next;
  }
  if ((path + "/").starts_with("/granary.slice/")) return refuse(text, "granary.slice is Granary's own");
  return path;
}

std::optional<std::string> slice_of(const std::string& path) {
  const std::string name = path.substr(path.rfind('/') + 1);
  return expand_slice(name) == path ? std::optional(name) : std::nullopt;
}

}  // namespace granary::agent
