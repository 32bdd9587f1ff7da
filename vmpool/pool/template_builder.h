// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "vmpool/pool/clone.h"

namespace granary::pool {

// One line per step: how far, and what is going on.
using BuildProgress = std::function<void(int percent, const std::string& text)>;

struct BuiltTemplate {
  Template content;
  TemplateInfo info;
};

// What `settings` make of a template on this host. Errors name the file that cannot be read.
Result<TemplateInputs> template_inputs(const PoolSettings& settings, const std::string& vmm_build_id,
                                       const std::string& host_fingerprint);

// Boots the kernel once, waits until the guest is at the quiescent point, and snapshots it into sealed memfds. Errors:
// what the VMM answered; kGuestUnresponsive when the guest is not ready within `boot_timeout`, kVmmFailed when it ended
// before, both with the end of its console; kShuttingDown soon after `cancel` became true. `leaks` takes the names of
// what could not be removed afterwards.
Result<BuiltTemplate> build_template(CloneTools tools, const PoolSettings& settings, const TemplateInputs& inputs,
                                     const BuildProgress& progress, const std::atomic<bool>& cancel,
                                     std::vector<std::string>& leaks);

}  // namespace granary::pool
