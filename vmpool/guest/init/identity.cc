// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/identity.h"

#include <algorithm>

#include "vmpool/guest/init/failure.h"
#include "vmpool/guest/network_check.h"

namespace granary::guest {
namespace {

constexpr size_t kUuidBytes = 16;
constexpr size_t kMinEntropyBytes = 32;
constexpr size_t kMaxEntropyBytes = 512;
constexpr size_t kMaxHostnameBytes = 64;  // sethostname(2): __NEW_UTS_LEN

bool is_hostname(const std::string& name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
  };
  return !name.empty() && name.size() <= kMaxHostnameBytes && std::all_of(name.begin(), name.end(), allowed);
}

std::string to_hex(const std::string& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const char c : bytes) {
    hex += kDigits[static_cast<unsigned char>(c) >> 4];
    hex += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return hex;
}

// Only all-zero is no identity: it is what a forgotten field looks like.
bool is_uuid(const std::string& bytes) {
  return bytes.size() == kUuidBytes && std::any_of(bytes.begin(), bytes.end(), [](char c) { return c != 0; });
}

// Six of the UUID's random bytes (RFC 9562, 5.4), marked as a locally administered address of one card.
MacAddress mac_of(const std::string& uuid) {
  MacAddress mac;
  std::copy(uuid.end() - mac.size(), uuid.end(), mac.begin());
  mac[0] = static_cast<uint8_t>((mac[0] & ~0x01) | 0x02);
  return mac;
}

Error invalid(const std::string& what) { return {Errc::kInvalidArgument, "identity: " + what}; }

}  // namespace

Status GuestIdentity::check(const v1::Identity& identity) const {
  if (!is_uuid(identity.clone_uuid())) return invalid("clone_uuid must be 16 bytes, not all zero");
  if (!is_uuid(identity.machine_id())) return invalid("machine_id must be 16 bytes, not all zero");
  const size_t entropy = identity.entropy().size();
  if (entropy < kMinEntropyBytes || entropy > kMaxEntropyBytes) {
    return invalid("entropy has " + std::to_string(entropy) + " bytes; send 32 to 512");
  }
  if (!is_hostname(identity.hostname())) {
    return invalid("hostname \"" + identity.hostname() + "\": 1 to 64 letters, digits, dots and hyphens are allowed");
  }
  if (identity.has_network()) GRANARY_TRY(check_network(identity.network()));
  if (applied() && clone_uuid_ != identity.clone_uuid()) {
    return invalid("this clone is " + to_hex(clone_uuid_) + " already; a clone is used once");
  }
  return ok();
}

Status GuestIdentity::apply_steps(const v1::Identity& identity) {
  GRANARY_TRY(system_.add_entropy(std::as_bytes(std::span(identity.entropy()))));
  GRANARY_TRY(system_.set_realtime(GRANARY_TRY(system_.host_realtime_ns())));
  GRANARY_TRY(system_.set_hostname(identity.hostname()));
  GRANARY_TRY(system_.set_machine_id(to_hex(identity.machine_id())));
  GRANARY_TRY(system_.set_mac_addresses(mac_of(identity.clone_uuid())));
  GRANARY_TRY(system_.loopback_up());
  boot_id_ = GRANARY_TRY(system_.boot_id());
  return ok();
}

v1::Reply GuestIdentity::apply(const v1::Identity& identity) {
  if (const Status checked = check(identity); !checked) return failure(checked.error());
  if (!applied()) {
    if (const Status steps = apply_steps(identity); !steps) {
      return failure(v1::Failure::IDENTITY, "identity: " + steps.error().message());
    }
    if (identity.has_network()) {
      const Status configured = system_.configure_network(identity.network());
      if (!configured) return failure(v1::Failure::NETWORK, configured.error().message());
    }
    clone_uuid_ = identity.clone_uuid();
  }
  v1::Reply reply;
  v1::IdentityApplied& applied = *reply.mutable_identity_applied();
  applied.set_clone_uuid(clone_uuid_);
  applied.set_boot_id(boot_id_);
  applied.set_realtime_ns(system_.realtime_ns());
  return reply;
}

}  // namespace granary::guest
