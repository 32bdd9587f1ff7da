// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "vmpool/base/fd.h"

namespace granary::integration {

// For tests with real taps, as root. Everything is made in the calling thread's network namespace.

// A new network namespace for this thread and its later children.
Status enter_fresh_network();

// A tap as the net device wants it (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR); made if there is none of that name.
Result<Fd> open_tap(const std::string& name);
Status set_persistent(const Fd& tap, bool persistent);
bool interface_exists(const std::string& name);
// IFF_RUNNING: up, and somebody holds the tap.
bool interface_running(const std::string& name);
// Frames that its queues had no room for, in both directions; nothing when there is no such interface.
std::optional<uint64_t> dropped_frames(const std::string& name);
// Gives it an IPv4 address with a /24 and brings it up.
Status bring_up(const std::string& name, const std::string& address);

// One ICMP echo (RFC 792) with `payload`, asked again every second until its answer came; kDeadlineExceeded after
// minutes.
Status ping(const std::string& address, const std::string& payload);

// A TCP socket that listens on `address`, and one connection to it, waited for.
Result<Fd> listen_on(const std::string& address, uint16_t port);
Result<Fd> accept_one(const Fd& listener);

}  // namespace granary::integration
