// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/result.h"

namespace granary::shim {

// Exports a file or directory of the host to the guest, and gives its path there (/run/granary/shares/NAME).
// kNotSupported: this build's VMM has no virtio-fs.
Result<std::string> share_host_path(const std::string& host_path, bool read_only);

}  // namespace granary::shim
