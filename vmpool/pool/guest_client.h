// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <string>

#include "vmpool/base/machine_layout.h"
#include "vmpool/pool/guest_connection.h"

namespace granary::guest::v1 {
class Network;
}

namespace granary::pool {

using Uuid = std::array<uint8_t, 16>;
// A random (version 4) UUID, and its lower-case text form.
Result<Uuid> random_uuid();
std::string to_text(const Uuid& uuid);
// What to_text() gave, back; kInvalidArgument for anything else.
Result<Uuid> parse_uuid(std::string_view text);
// From getrandom(2).
Status fill_random(std::span<uint8_t> bytes);

// What the guest said about its identity.
struct AppliedIdentity {
  std::string boot_id;  // empty from a tiny guest
  int64_t realtime_ns = 0;
};

// The pool's own conversation with a clone's init: probes, then the identity over the same connection, so that a
// hand-over needs no new handshake. One thread at a time. Errors: kGuestUnresponsive at the deadline, kGuestProtocol
// for an answer that does not fit the question, kPeerGone.
class GuestClient {
 public:
  static constexpr std::chrono::milliseconds kClockTolerance{50};

  static Result<GuestClient> connect(const std::string& socket_path, SteadyTime deadline);

  // Answered with our nonce and protocol version 1.
  Status probe(SteadyTime deadline);
  // Fresh entropy, the host's clock, `hostname`, the UUID and a machine id of its own, and (none: nullptr) what
  // its cards are configured with: sent, to a guest that may still be parked.
  Status send_identity(const Uuid& clone_uuid, const std::string& hostname, const guest::v1::Network* network,
                       SteadyTime deadline);
  // Its answer, to be asked for once after send_identity(). kIdentityFailed: the guest could not apply all of it (its
  // reason is the context), or its clock is more than kClockTolerance away from what ours showed meanwhile.
  // kInvalidArgument: its kernel refused the network.
  Result<AppliedIdentity> identity_applied(const Uuid& clone_uuid, SteadyTime deadline);

 private:
  explicit GuestClient(GuestConnection connection) : connection_(std::move(connection)) {}
  GuestConnection connection_;
  int64_t identity_sent_ns_ = 0;  // CLOCK_REALTIME
};

}  // namespace granary::pool
