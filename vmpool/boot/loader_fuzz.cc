// SPDX-License-Identifier: Apache-2.0
// Any file as a kernel: the loader must refuse or load it without touching anything but guest memory.
#include <sys/mman.h>
#include <unistd.h>

#include "vmpool/base/fd.h"
#include "vmpool/boot/loader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary;
  static const GuestMemory memory = *GuestMemory::create(32 * kMiB);
  static const Fd file = *create_memfd("kernel");
  if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0) return 0;
  if (!pwrite_all(file.get(), std::as_bytes(std::span(data, size)), 0)) return 0;
  const Result<boot::BootPlan> plan = boot::load_guest(memory, {file.get(), -1, "quiet", 1, 1});
  if (plan && plan->entry.value >= memory.size()) __builtin_trap();
  return 0;
}
