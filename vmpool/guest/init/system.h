// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmpool/base/result.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::guest {

using MacAddress = std::array<uint8_t, 6>;

// What granary-init changes in the machine it runs on. Two implementations: the guest itself, and a dry one for serving
// the protocol as a plain process. Each method is one step; an error keeps the errno of the call that failed.
class System {
 public:
  virtual ~System() = default;

  // Adds and credits entropy, then reseeds the kernel's generator from it (random(4): RNDADDENTROPY, RNDRESEEDCRNG).
  virtual Status add_entropy(std::span<const std::byte> entropy) = 0;
  // CLOCK_REALTIME of the host, as the VMM tells it. All times: nanoseconds since 1970.
  virtual Result<int64_t> host_realtime_ns() = 0;
  virtual Status set_realtime(int64_t realtime_ns) = 0;
  [[nodiscard]] virtual int64_t realtime_ns() const = 0;
  virtual Status set_hostname(const std::string& name) = 0;
  // 32 lower-case hex digits (machine-id(5)).
  virtual Status set_machine_id(const std::string& hex) = 0;
  // Gives the n-th link of find_ethernet_links(), counted from 0, `first` with n added to its last byte. Opens the first
  // INET socket of the guest's life: not before the entropy.
  virtual Status set_mac_addresses(const MacAddress& first) = 0;
  virtual Status loopback_up() = 0;
  // Gives the cards a network that check_network() found well. What it made before it failed stays: it may be asked
  // again.
  virtual Status configure_network(const v1::Network& network) = 0;
  // The kernel makes the boot id when it is first read: not before the entropy.
  virtual Result<std::string> boot_id() = 0;
  // Returns only if it failed (the dry one always returns).
  virtual Status power_off() = 0;
};

// The machine this process runs on, as root.
class GuestSystem final : public System {
 public:
  Status add_entropy(std::span<const std::byte> entropy) override;
  Result<int64_t> host_realtime_ns() override;
  Status set_realtime(int64_t realtime_ns) override;
  [[nodiscard]] int64_t realtime_ns() const override;
  Status set_hostname(const std::string& name) override;
  Status set_machine_id(const std::string& hex) override;
  Status set_mac_addresses(const MacAddress& first) override;
  Status loopback_up() override;
  Status configure_network(const v1::Network& network) override;
  Result<std::string> boot_id() override;
  Status power_off() override;
};

// Changes nothing and remembers what was asked, in order; `fail` names a call that shall fail with EIO.
class DrySystem final : public System {
 public:
  explicit DrySystem(std::string fail = {}) : fail_(std::move(fail)) {}
  void fail(const std::string& name) { fail_ = name; }
  // Otherwise it is this machine's.
  void set_host_realtime(int64_t realtime_ns) { host_realtime_ns_ = realtime_ns; }
  Status add_entropy(std::span<const std::byte> entropy) override;
  Result<int64_t> host_realtime_ns() override;
  Status set_realtime(int64_t realtime_ns) override;
  [[nodiscard]] int64_t realtime_ns() const override { return realtime_ns_; }
  Status set_hostname(const std::string& name) override;
  Status set_machine_id(const std::string& hex) override;
  Status set_mac_addresses(const MacAddress& first) override;
  Status loopback_up() override;
  Status configure_network(const v1::Network& network) override;
  Result<std::string> boot_id() override;
  Status power_off() override;
  [[nodiscard]] const std::vector<std::string>& calls() const { return calls_; }

 private:
  Status record(const std::string& name, const std::string& argument);
  std::string fail_;
  std::optional<int64_t> host_realtime_ns_;
  int64_t realtime_ns_ = 0;
  std::vector<std::string> calls_;
};

}  // namespace granary::guest
