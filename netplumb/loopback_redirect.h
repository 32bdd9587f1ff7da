// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "vmpool/base/result.h"

namespace granary::netplumb {

// Makes every TCP connection that a program in the namespace opens to 127.0.0.0/8 or ::1 arrive at `port` there
// (loopback_listener.h tells where it was meant to go): one nf_tables table, "inet granary-loopback". What comes in by
// a card passes no rule of it, and other local addresses stay what they are. Replaces what an earlier call made.
//
// Errors name the namespace: kNotSupported: the kernel lacks nf_tables or its NAT; EPERM.
Status redirect_loopback(int netns, const std::string& netns_name, uint16_t port);

// Takes that away; false: there was none. Waits for the kernel (10 to 20 ms) where there was one.
Result<bool> undo_loopback_redirect(int netns, const std::string& netns_name);

}  // namespace granary::netplumb
