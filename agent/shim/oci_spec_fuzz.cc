// SPDX-License-Identifier: Apache-2.0
// A hostile config.json: it is translated or refused, and what is translated can be translated again.
#include <cstdint>
#include <cstdlib>

#include "agent/shim/oci_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using granary::shim::translate_spec;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const granary::shim::SpecContext context{
      .container_id = "c",
      .sandbox_id = "s",
      .terminal = false,
      .share = [](const std::string& path, bool) -> granary::Result<std::string> { return "/shared" + path; }};
  if (const auto spec = translate_spec(text, context); spec && spec->json.size() <= granary::shim::kMaxSpecBytes) {
    if (!translate_spec(spec->json, context)) std::abort();
  }
  (void)granary::shim::translate_process(text, true);
  (void)granary::shim::read_resources(text);
  return 0;
}
