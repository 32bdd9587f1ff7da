// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "vmpool/base/result.h"

namespace granary::agent {

// The path of a pod's cgroup below the root of its hierarchy, from what a container runtime is given: a path of
// cgroupfs ("/kubepods/burstable/pod1234") or systemd's form ("kubepods-burstable-pod1234.slice:prefix:name", of which
// the slice counts: "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234.slice"). Only the text is
// looked at. kInvalidArgument: anything else, "..", the root itself, and Granary's own groups.
Result<std::string> parse_cgroup_parent(const std::string& text);

// "kubepods-pod1234.slice" for "/kubepods.slice/kubepods-pod1234.slice": the slice whose group that is, if systemd made
// it.
std::optional<std::string> slice_of(const std::string& path);

}  // namespace granary::agent
