// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "vmpool/base/result.h"

// OCI runtime-spec JSON on its way to crun: bounded in depth, and with what only the guest knows filled in. All else
// stays as the host gave it; crun judges it. Errors: kInvalidArgument, naming the field.
namespace granary::guest {

// [a-zA-Z0-9_.-], 1 to 128 bytes, not "." or "..": it becomes the name of folders.
Status check_container_id(std::string_view id);

struct OciJson {
  std::string text;
  bool terminal = false;  // the process wants one
};

// A configuration (config.md): root.path and linux.cgroupsPath are replaced.
Result<OciJson> make_container_json(std::string_view spec, const std::string& rootfs, const std::string& cgroups_path);
// A process of it (config.md, "Process"); `terminal` is as in the JSON, or true.
Result<OciJson> make_process_json(std::string_view process, bool terminal);

}  // namespace granary::guest
