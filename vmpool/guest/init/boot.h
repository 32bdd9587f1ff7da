// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/result.h"

// What PID 1 of a guest does before it serves. Nothing here opens an INET socket or reads the boot id: both are the
// identity's (vmpool/guest/init/system.h). A step that fails is logged and passed over: a guest that can still answer
// its host is worth more than one that panics.
namespace granary::guest {

// A root that containers can leave, and the kernel's file systems: /proc, /sys, /dev and below, /run, /tmp, cgroup v2.
void mount_file_systems();

// Standard input from /dev/null, output and errors to /dev/console, or to /dev/kmsg where there is none.
void open_standard_streams();

// Loads the modules that `list` names, one path per line, in its order. A module that is loaded or built in already
// counts as loaded. Returns how many could not be loaded.
unsigned load_modules(const std::string& list);

// Room for the pipes of a few thousand processes, and a hostname.
void set_limits_and_name();

}  // namespace granary::guest
