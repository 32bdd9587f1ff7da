// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <grpcpp/support/server_callback.h>

#include "agent/pool_set.h"
#include "granary/v1/pool.pb.h"

namespace granary::agent {

using ExecReactor = grpc::ServerBidiReactor<v1::ExecRequest, v1::ExecResponse>;

// Starts one Exec call: carries it between a caller and a clone, on a thread of its own that alone uses the clone's
// session. gRPC owns the reactor. `pools` outlives the call.
//
// Each direction holds at most one message, so a slow reader at either end slows the other and nothing piles up here. A
// caller that vanishes ends the session, and with it the command (SIGHUP); one that only closes its side still gets all
// output. A command that cannot be started is an ExecExit with the status that a shell gives (127 not found, 126 not
// executable), not an error of the call.
ExecReactor* start_exec_call(const PoolSet& pools);

}  // namespace granary::agent
