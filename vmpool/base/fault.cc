// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/fault.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string_view>

namespace granary {

#ifdef GRANARY_FAULTS
void fault_point(const char* name) {
  static const char* const wanted = ::secure_getenv("GRANARY_FAULT");
  if (wanted == nullptr) return;
  const std::string_view text = wanted;
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos || text.substr(0, colon) != name) return;
  if (::unlink(wanted + colon + 1) == 0) ::kill(::getpid(), SIGKILL);
}
#else
void fault_point(const char* /*name*/) {}
#endif

}  // namespace granary
