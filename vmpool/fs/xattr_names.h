// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace granary::fs {

// Extended attributes that a guest may see and set: those of users, ACLs and file capabilities. Labels of the host's
// security modules and trusted.* are the host's.
inline bool is_served_attribute(std::string_view name) {
  return name.starts_with("user.") || name == "security.capability" || name == "system.posix_acl_access" ||
         name == "system.posix_acl_default";
}

}  // namespace granary::fs
