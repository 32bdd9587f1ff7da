// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include "agent/shim/runtime_command.h"
#include "agent/shim/sandbox_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)granary::shim::read_membership(text, "s1");
  (void)granary::shim::read_sandbox_spec(text, "k8s.io");
  (void)granary::shim::read_runtime_options(text);
  return 0;
}
