// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/pool/pool.h"

namespace granary::pool {

// For tests only: the Linux guest `name` of this build ("distro", "minimal"), with what this machine's KVM needs of its
// command line. The files need not be there.
TemplateSource linux_image(const std::string& name);
// "" when both files are there, else which one is missing and what makes it. Tests skip with it, and ctest counts that.
std::string missing_image(const TemplateSource& image);

}  // namespace granary::pool
