// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdio>

#include "vmpool/guest/init/network.h"
#include "vmpool/guest/init/system.h"

namespace granary::guest {

Status DrySystem::record(const std::string& name, const std::string& argument) {
  calls_.push_back(argument.empty() ? name : name + " " + argument);
  if (name == fail_) return Error::from_errno(EIO, name);
  return ok();
}

Status DrySystem::add_entropy(std::span<const std::byte> entropy) {
  return record("entropy", std::to_string(entropy.size()));
}

Result<int64_t> DrySystem::host_realtime_ns() {
  GRANARY_TRY(record("host-clock", {}));
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return host_realtime_ns_.value_or(std::chrono::nanoseconds(now).count());
}

Status DrySystem::set_realtime(int64_t realtime_ns) {
  realtime_ns_ = realtime_ns;
  return record("realtime", {});
}

Status DrySystem::set_hostname(const std::string& name) { return record("hostname", name); }

Status DrySystem::set_machine_id(const std::string& hex) { return record("machine-id", hex); }

Status DrySystem::set_mac_addresses(const MacAddress& first) {
  char text[18];
  std::snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", first[0], first[1], first[2], first[3], first[4],
                first[5]);
  return record("mac", text);
}

Status DrySystem::loopback_up() { return record("loopback", {}); }

Status DrySystem::configure_network(const v1::Network& network) {
  return record("network", std::to_string(network.links_size()) + " links" +
                               (network.nameservers().empty() ? "" : ", " + resolv_conf(network)));
}

Result<std::string> DrySystem::boot_id() {
  GRANARY_TRY(record("boot-id", {}));
  return std::string("00000000-0000-4000-8000-000000000000");
}

Status DrySystem::power_off() { return record("power-off", {}); }

}  // namespace granary::guest
