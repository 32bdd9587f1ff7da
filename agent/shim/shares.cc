// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/shares.h"

namespace granary::shim {

Result<std::string> share_host_path(const std::string& /*host_path*/, bool /*read_only*/) {
  return Error(Errc::kNotSupported,
               "files of the host cannot be shared with a microVM yet; remove the volume, or run the pod with another "
               "runtimeClassName");
}

}  // namespace granary::shim
