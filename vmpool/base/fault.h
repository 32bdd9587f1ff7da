// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace granary {

// A named step at which a test can have this process killed, to prove that whoever comes after it finds its way. With
// GRANARY_FAULT=NAME:FILE in the environment, the process that reaches the step NAME and finds FILE removes it and sends itself
// SIGKILL: once, and only when the test has made the file. Does nothing in builds without the CMake option GRANARY_FAULTS (preset
// release). The steps are listed in tests/integration/kill_matrix_test.cc, those of networks in pod_network_test.cc and
// own_network_agent_test.cc there and in netplumb/attach_fault_test.cc.
void fault_point(const char* name);

}  // namespace granary
