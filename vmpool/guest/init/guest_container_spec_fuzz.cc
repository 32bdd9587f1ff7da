// SPDX-License-Identifier: Apache-2.0
// JSON for crun: whatever is accepted is JSON again, with what the guest sets, and is accepted once more.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "vmpool/guest/init/container_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary::guest;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto spec = make_container_json(text, "/run/rootfs", "/pod/name");
  if (spec) {
    const auto again = make_container_json(spec->text, "/run/rootfs", "/pod/name");
    if (!again || again->text != spec->text || again->terminal != spec->terminal) std::abort();
    if (spec->text.find(R"("cgroupsPath":"/pod/name")") == std::string::npos) std::abort();
  }
  const auto process = make_process_json(text, size % 2 == 0);
  if (process && (size % 2 == 0) && !process->terminal) std::abort();
  (void)check_container_id(text);
  return 0;
}
