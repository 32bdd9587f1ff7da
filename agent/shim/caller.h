// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "agent/shim/ttrpc_server.h"

namespace granary::shim {

// Who calls the Task service.
struct Caller {
  std::string containerd_namespace;  // "k8s.io" if it does not say
  std::string version;               // v2 or v3: the same messages
};

// UNIMPLEMENTED: the call is none of containerd.task.v2.Task or v3.
Result<Caller> caller_of(const ttrpc::Call& call);
// The same for a method of that service that is not known.
Error unknown_method(const ttrpc::Call& call);

}  // namespace granary::shim
