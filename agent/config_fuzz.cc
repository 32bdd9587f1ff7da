// SPDX-License-Identifier: Apache-2.0
// Any text is either a configuration within its bounds or refused with a place.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "agent/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = granary::agent::parse_config(text, "f");
  if (!config) {
    if (!config.error().is(granary::Errc::kConfigInvalid) || !config.error().context().starts_with("f:")) abort();
    return 0;
  }
  if (config->network && (config->network->subnet.address.v6 || config->network->subnet.length > 29)) abort();
  if (config->pools.empty() || config->pools.size() > granary::agent::kMaxPools) abort();
  for (const auto& pool : config->pools) {
    if (pool.name.empty() || pool.size > pool.max || pool.shape.vcpus < 1 || pool.shape.vcpus > 8) abort();
    if (pool.min > pool.size || !(pool.hit_target >= 0.5 && pool.hit_target < 1)) abort();
    if (pool.shape.devices.net_slots > 2 || pool.shape.devices.block_slots > 8) abort();
  }
  return 0;
}
